// Flame graph and table under one toolbar: what is searched and how values are written holds for both.
import { formatValue, quantityName } from '../logic/measure';
import { choose } from '../state/actions';
import { graph, measure } from '../state/answers';
import { columns, isDiff, isEmpty, quantity, scales } from '../state/graph';
import { view } from '../state/state';
import type { Panel } from '../types/view';
import { BASES, choosable } from './flame/choices';
import { FlamePanel } from './flame/FlamePanel';
import { SearchBox } from './flame/SearchBox';
import { FunctionTable } from './FunctionTable';
import { ErrorNotice } from './Notice';

export function Workbench() {
  const { panel } = view.value;
  const { error } = graph.answer.value;
  return (
    <section class="panel" aria-labelledby="flame-title">
      <div class="bar">
        <h2 id="flame-title">{isDiff.value ? 'What changed' : measure.value === 'cpu' ? 'Where CPU goes' : 'Flame graph'}</h2>
        <Whole />
        <SearchBox />
        <QuantitySwitch />
        {isDiff.value && <BasisSwitch />}
        <PanelSwitch />
      </div>
      {error !== null && <ErrorNotice error={error} about="Flame graph:" />}
      <div class={`workbench ${panel}`}>
        {panel !== 'table' && <FlamePanel />}
        {panel !== 'graph' && <FunctionTable />}
      </div>
    </section>
  );
}

function Whole() {
  if (isEmpty.value) return null;
  const { comparison, baseline } = scales.value;
  const total = columns.value.total[0];
  const base = columns.value.base?.total[0];
  if (base === undefined) {
    return (
      <span class="muted" data-testid="whole">
        {formatValue(total, { ...comparison, quantity: 'rate' })} · {formatValue(total, { ...comparison, quantity: 'amount' })}{' '}
        {comparison.measure === 'cpu' && 'of CPU'}
      </span>
    );
  }
  return (
    <span class="muted" data-testid="whole">
      A {formatValue(base, { ...baseline, quantity: 'rate' })} → B {formatValue(total, { ...comparison, quantity: 'rate' })}
    </span>
  );
}

function QuantitySwitch() {
  return (
    <div class="group" role="group" aria-label="Values as">
      {choosable(isDiff.value).map((one) => (
        <button type="button" key={one} aria-pressed={quantity.value === one} onClick={() => choose({ quantity: one })}>
          {quantityName(measure.value, one)}
        </button>
      ))}
    </div>
  );
}

function BasisSwitch() {
  return (
    <label class="muted">
      Width{' '}
      <select value={view.value.basis} onChange={(event) => choose({ basis: BASES[event.currentTarget.selectedIndex].basis })}>
        {BASES.map(({ basis, label }) => (
          <option key={basis} value={basis}>
            {label}
          </option>
        ))}
      </select>
    </label>
  );
}

const PANELS: readonly (readonly [Panel, string])[] = [
  ['both', 'Both'],
  ['graph', 'Graph'],
  ['table', 'Table'],
];

function PanelSwitch() {
  return (
    <div class="group" role="group" aria-label="Show">
      {PANELS.map(([panel, label]) => (
        <button type="button" key={panel} aria-pressed={view.value.panel === panel} onClick={() => choose({ panel })}>
          {label}
        </button>
      ))}
    </div>
  );
}
