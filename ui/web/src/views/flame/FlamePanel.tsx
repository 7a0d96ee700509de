// The flame graph with its breadcrumbs, readout and legend, in whatever state its data is.
import { callersOf } from '../../logic/flame/layout';
import { focusOn, resetZoom } from '../../state/actions';
import { graph, graphAbout, window as chosenWindow } from '../../state/answers';
import { columns, cursorFrame, focusFrame, focusMissing, frameName, hoverFrame, isDiff, isEmpty, rootName } from '../../state/graph';
import { live, zoom } from '../../state/state';
import { formatWindow } from '../clock-text';
import { Empty, Skeleton } from '../Notice';
import { frameFacts } from './describe';
import { FlameGraph } from './FlameGraph';
import { Legend } from './Legend';
import { Tooltip } from './Tooltip';

export function FlamePanel() {
  const { data, pending } = graph.answer.value;
  const stale = graph.isStale(graphAbout.value);
  return (
    <section class="pane" aria-label="Flame graph" aria-busy={pending}>
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
