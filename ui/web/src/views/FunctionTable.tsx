// The table of functions: what the canvas shows, as text that can be sorted, read aloud and read by machines. Cells
// carry the values as stored in `data-*-ns` (nanoseconds for CPU profiles).
import { exactly } from '../logic/flame/search';
import type { FunctionRow } from '../logic/flame/functions';
import { selfDelta } from '../logic/flame/functions';
import { frameChange } from '../logic/flame/diff';
import { formatDelta, formatShare, formatValue } from '../logic/measure';
import { choose, sortBy } from '../state/actions';
import { graph, graphAbout } from '../state/answers';
import { columns, diffScale, isDiff, isEmpty, scales, tableFunctions, weights } from '../state/graph';
import { tableRows, view } from '../state/state';
import type { SortColumn } from '../types/view';
import { PanelSwitch } from './flame/FlamePanel';
import { SearchBox } from './flame/SearchBox';
import { Skeleton } from './Notice';

const MORE_ROWS = 400;

export function FunctionTable() {
  const { data, pending } = graph.answer.value;
  const rows = tableFunctions.value;
  const alone = view.value.panel === 'table';
  return (
    <section class="panel" aria-labelledby="table-title" aria-busy={pending}>
      <div class="bar">
        <h2 id="table-title">Functions</h2>
        <span class="muted">{data ? rows.length : ''}</span>
        <span class="grow" />
        {alone && <SearchBox />}
        {alone && <PanelSwitch />}
      </div>
      {!data && pending && <Skeleton label="Loading the functions" widths={[100, 90, 80, 70, 60]} />}
      {data && !isEmpty.value && (
        <div class={graph.isStale(graphAbout.value) ? 'table stale' : 'table'} tabIndex={0} role="group" aria-label="Functions">
          <table class="functions" data-testid="functions">
            <caption class="hidden">Functions with their own and total values</caption>
            <thead>
              <tr>
                <Heading column="name" label="Function" />
                {isDiff.value ? (
                  <>
                    <Heading column="self" label="B self" />
                    <Heading column="delta" label="Δ self" />
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
        <span aria-hidden="true">{sorted ? (sort.descending ? ' ↓' : ' ↑') : ''}</span>
      </button>
    </th>
  );
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
      <SelfCell row={row} />
      {isDiff.value && <DeltaCell row={row} />}
      <TotalCell row={row} />
    </tr>
  );
}

function whole(): number {
  return Math.max(columns.value.total[0], 1);
}

/** The value as chosen, below it the other reading: the share, or the rate when the share was chosen. */
function Value({ value }: { readonly value: number }) {
  const scale = scales.value.comparison;
  const other = scale.quantity === 'share' ? formatValue(value, { ...scale, quantity: 'rate' }) : formatShare(value / whole());
  return (
    <>
      {formatValue(value, scale)}
      <small>{other}</small>
    </>
  );
}

function SelfCell({ row }: { readonly row: FunctionRow }) {
  const baseline = isDiff.value ? { 'data-baseline-self-ns': row.baseSelf } : {};
  return (
    <td data-self-ns={row.self} {...baseline}>
      <Value value={row.self} />
      <span class="cell-bar" aria-hidden="true" style={{ width: `${(row.self / whole()) * 80}%` }} />
    </td>
  );
}

function TotalCell({ row }: { readonly row: FunctionRow }) {
  const baseline = isDiff.value ? { 'data-baseline-total-ns': row.baseTotal } : {};
  return (
    <td data-total-ns={row.total} {...baseline}>
      <Value value={row.total} />
      <span class="cell-bar" aria-hidden="true" style={{ width: `${(row.total / whole()) * 80}%` }} />
    </td>
  );
}

function DeltaCell({ row }: { readonly row: FunctionRow }) {
  const delta = selfDelta(row, weights.value);
  const change = frameChange(row.baseSelf, row.self, diffScale.value);
  const word = { new: 'new', gone: 'gone', same: 'noise or <5 %', grew: '', shrank: '' }[change.kind];
  const tone = change.step === 0 ? 'muted' : delta > 0 ? 'grew' : 'shrank';
  return (
    <td class={tone} data-delta={delta}>
      {formatDelta(delta, scales.value.comparison)}
      <small>{row.self === 0 && row.baseSelf === 0 ? '' : word}</small>
    </td>
  );
}
