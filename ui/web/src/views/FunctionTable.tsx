// The table of functions: what the canvas shows, as text that can be sorted, read aloud and read by machines. Cells
// carry the values as stored in `data-*-ns` (nanoseconds for CPU profiles).
import { computed } from '@preact/signals';
import { exactly } from '../logic/flame/search';
import type { FunctionRow } from '../logic/flame/functions';
import { selfDelta } from '../logic/flame/functions';
import { frameChange } from '../logic/flame/diff';
import { formatBare, formatDelta, formatShare, toQuantity } from '../logic/measure';
import { choose, sortBy } from '../state/actions';
import { graph, graphAbout } from '../state/answers';
import { columns, diffScale, functions, isDiff, isEmpty, scales, tableFunctions, weights } from '../state/graph';
import { tableRows, view } from '../state/state';
import type { SortColumn } from '../types/view';
import { Skeleton } from './Notice';

const MORE_ROWS = 400;

export function FunctionTable() {
  const { data, pending } = graph.answer.value;
  const rows = tableFunctions.value;
  return (
    <section class="pane" aria-label="Functions" aria-busy={pending}>
      {!data && pending && <Skeleton label="Loading the functions" widths={[100, 90, 80, 70, 60]} />}
      {data && !isEmpty.value && (
        <div class={graph.isStale(graphAbout.value) ? 'table stale' : 'table'} tabIndex={0} role="group" aria-label="Functions">
          <table class={isDiff.value ? 'functions diff' : 'functions'} data-testid="functions">
            <caption class="hidden">Functions with their own and total values</caption>
            <thead>
              <tr>
                <Heading column="name" label="Function" />
                {isDiff.value ? (
                  <>
                    <Heading column="delta" label="Δ self" />
                    <Heading column="self" label="B self" />
                    <Heading column="total" label="B total" />
                  </>
                ) : (
                  <>
                    <Heading column="self" label="Self" />
                    <Heading column="total" label="Total" />
                  </>
                )}
              </tr>
            </thead>
            <tbody>
              {rows.slice(0, tableRows.value).map((row) => (
                <Row key={row.index} row={row} />
              ))}
            </tbody>
          </table>
          {rows.length === 0 && <p class="bar muted">No function matches the search.</p>}
          {rows.length > tableRows.value && (
            <p class="bar">
              <button type="button" onClick={() => (tableRows.value += MORE_ROWS)}>
                Show more
              </button>
              <span class="muted">{rows.length - tableRows.value} functions below</span>
            </p>
          )}
        </div>
      )}
    </section>
  );
}

function Heading({ column, label }: { readonly column: SortColumn; readonly label: string }) {
  const { sort } = view.value;
  const sorted = sort.column === column;
  const direction = sort.descending ? 'descending' : 'ascending';
  return (
    <th scope="col" aria-sort={sorted ? direction : 'none'}>
      <button type="button" class="quiet" onClick={() => sortBy(column)}>
        {label}
        {column !== 'name' && !isDiff.value && unit() !== '' && <span class="muted"> {unit()}</span>}
        <span aria-hidden="true">{sorted ? (sort.descending ? ' ↓' : ' ↑') : ''}</span>
      </button>
    </th>
  );
}

/** The unit that all cells of a column share, if they share one. */
function unit(): string {
  const { measure, quantity } = scales.value.comparison;
  return measure === 'cpu' && quantity === 'rate' ? 'cores' : '';
}

function Row({ row }: { readonly row: FunctionRow }) {
  const pattern = exactly(row.name);
  const found = view.value.search === pattern;
  return (
    <tr data-testid="function" data-function={row.name}>
      <td>
        <button
          type="button"
          class="quiet"
          title={row.name}
          aria-pressed={found}
          onClick={() => choose({ search: found ? '' : pattern })}
        >
          {row.name}
        </button>
      </td>
      {isDiff.value && <DeltaCell row={row} />}
      <SelfCell row={row} />
      <TotalCell row={row} />
    </tr>
  );
}

/** Bars compare rows with each other, so the longest is the largest self, not the whole. */
const largestSelf = computed(() => functions.value.reduce((most, row) => Math.max(most, row.self), 1));

function whole(): number {
  return Math.max(columns.value.total[0], 1);
}

/** The value as chosen and, unless that is the share already, its share. The heading names the unit. */
function Value({ value }: { readonly value: number }) {
  const scale = scales.value.comparison;
  return (
    <>
      {formatBare(toQuantity(value, scale), scale)}
      {scale.quantity !== 'share' && !isDiff.value && <small>{formatShare(value / whole())}</small>}
    </>
  );
}

function SelfCell({ row }: { readonly row: FunctionRow }) {
  const baseline = isDiff.value ? { 'data-baseline-self-ns': row.baseSelf } : {};
  return (
    <td data-self-ns={row.self} {...baseline}>
      <Value value={row.self} />
      <span class="cell-bar" aria-hidden="true" style={{ width: `${(row.self / largestSelf.value) * 90}%` }} />
    </td>
  );
}

function TotalCell({ row }: { readonly row: FunctionRow }) {
  const baseline = isDiff.value ? { 'data-baseline-total-ns': row.baseTotal } : {};
  return (
    <td data-total-ns={row.total} {...baseline}>
      <Value value={row.total} />
    </td>
  );
}

function DeltaCell({ row }: { readonly row: FunctionRow }) {
  const delta = selfDelta(row, weights.value);
  const change = frameChange(row.baseSelf, row.self, diffScale.value);
  const tone = change.step === 0 ? 'muted' : delta > 0 ? 'grew' : 'shrank';
  const word = change.kind === 'new' || change.kind === 'gone' ? `${change.kind} ` : '';
  return (
    <td class={tone} data-delta={delta} title={change.step === 0 ? 'Within sampling noise, or less than 5 %' : undefined}>
      {word}
      {formatDelta(delta, scales.value.comparison).replace(/ cores?$/, '')}
    </td>
  );
}
