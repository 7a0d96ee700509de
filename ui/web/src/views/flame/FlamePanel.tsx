// The flame graph with its toolbar, breadcrumbs, legend and readout, in whatever state its data is.
import { BASES, choosable } from './choices';
import { formatValue, quantityName } from '../../logic/measure';
import { callersOf } from '../../logic/flame/layout';
import { choose, focusOn, resetZoom } from '../../state/actions';
import { graph, graphAbout, measure, window as chosenWindow } from '../../state/answers';
import { columns, cursorFrame, focusFrame, focusMissing, frameName, hoverFrame, isDiff, isEmpty, quantity, rootName, scales } from '../../state/graph';
import { live, view, zoom } from '../../state/state';
import type { Panel } from '../../types/view';
import { formatWindow } from '../clock-text';
import { Empty, ErrorNotice, Skeleton } from '../Notice';
import { frameFacts } from './describe';
import { FlameGraph } from './FlameGraph';
import { Legend } from './Legend';
import { SearchBox } from './SearchBox';
import { Tooltip } from './Tooltip';

export function FlamePanel() {
  const { data, error, pending } = graph.answer.value;
  const stale = graph.isStale(graphAbout.value);
  return (
    <section class="panel" aria-labelledby="flame-title" aria-busy={pending}>
      <div class="bar">
        <h2 id="flame-title">{isDiff.value ? 'What changed' : 'Flame graph'}</h2>
        <Whole />
        <span class="grow" />
        <SearchBox />
        <QuantitySwitch />
        {isDiff.value && <BasisSwitch />}
        <PanelSwitch />
      </div>
      {error !== null && <ErrorNotice error={error} about="Flame graph:" />}
      {!data && pending && <Skeleton label="Loading the flame graph" widths={[100, 96, 88, 71, 52, 40, 22]} />}
      {data && (
        <div class={stale ? 'stale' : ''} data-testid="graph" data-stale={stale}>
          {isEmpty.value ? <NothingHere /> : <Graph />}
        </div>
      )}
    </section>
  );
}

function NothingHere() {
  return (
    <Empty title={isDiff.value ? 'Neither window has samples' : 'No samples here'}>
      {rootName} used no CPU in {formatWindow(chosenWindow.value)}.{' '}
      {live.value ? 'The page fills by itself as samples arrive; ' : ''}choose a longer range or another service.
    </Empty>
  );
}

function Graph() {
  return (
    <>
      <Breadcrumbs />
      <FlameGraph />
      <Readout />
      <Tooltip />
    </>
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
        {formatValue(total, { ...comparison, quantity: 'rate' })} · {formatValue(total, { ...comparison, quantity: 'amount' })}
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

export function PanelSwitch() {
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

/** Callers of the zoomed frame. Deep stacks show their ends: a crumb per level would push the graph away. */
const MAX_CRUMBS = 7;

function Breadcrumbs() {
  const focus = focusFrame.value;
  if (focusMissing.value) {
    return (
      <p class="readout">
        The frame this link zooms to has no samples in this window, so all is shown.{' '}
        <button type="button" onClick={resetZoom}>
          Forget it
        </button>
      </p>
    );
  }
  if (focus === 0 && zoom.value === null) return null;
  const path = [...callersOf(columns.value, focus), focus];
  const shown = path.length <= MAX_CRUMBS ? path : [...path.slice(0, 2), -1, ...path.slice(-4)];
  return (
    <nav aria-label="Zoomed to">
      <ol class="crumbs" data-testid="crumbs">
        {shown.map((frame) => (
          <li key={frame}>
            {frame < 0 ? (
              <span class="muted">… {path.length - 6} more</span>
            ) : (
              <button type="button" class="quiet" onClick={() => focusOn(frame)} aria-current={frame === focus}>
                {frameName(frame)}
              </button>
            )}
          </li>
        ))}
        <li>
          <button type="button" onClick={resetZoom}>
            Reset zoom
          </button>
        </li>
      </ol>
    </nav>
  );
}

/** The frame under the pointer, else under the cursor. */
function Readout() {
  const frame = hoverFrame.value >= 0 ? hoverFrame.value : cursorFrame.value;
  const { name, rows } = frameFacts(frame);
  return (
    <div class="bar">
      <p class="readout" data-testid="readout">
        <code>{name}</code>{' '}
        <span class="muted">{rows.map(([label, value]) => `${label} ${value}`).join(' · ')}</span>
      </p>
      <span class="grow" />
      <Legend />
    </div>
  );
}
