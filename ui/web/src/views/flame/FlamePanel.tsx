// The flame graph with its breadcrumbs, readout and legend, in whatever state its data is.
import { formatShare } from '../../logic/measure';
import { callersOf } from '../../logic/flame/layout';
import { focusOn, resetZoom } from '../../state/actions';
import { graph, graphAbout, window as chosenWindow } from '../../state/answers';
import {
  columns,
  cursorFrame,
  focusFrame,
  focusMissing,
  foldedShare,
  frameName,
  hoverFrame,
  isDiff,
  isEmpty,
  rootName,
} from '../../state/graph';
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
      {foldedShare.value > 0 && (
        <p class="bar muted">
          {formatShare(foldedShare.value)} lies in frames too thin to send, shown as “other”. Choose a service or a shorter
          window to see them.
        </p>
      )}
      <FlameGraph />
      <Readout />
      <Tooltip />
    </>
  );
}

/** Callers of the zoomed frame. Deep stacks show their ends; the graph's own rows show all. */
const MAX_CRUMBS = 6;

function Breadcrumbs() {
  const focus = focusFrame.value;
  if (focusMissing.value) {
    return (
      <p class="crumbs">
        <span class="muted">The frame this link zooms to has no samples in this window, so all is shown.</span>
        <button type="button" onClick={resetZoom}>
          Forget it
        </button>
      </p>
    );
  }
  if (focus === 0 && zoom.value === null) return <p class="crumbs muted">Click a frame to zoom to it.</p>;
  const path = [...callersOf(columns.value, focus), focus];
  const hidden = path.length - MAX_CRUMBS;
  const shown = hidden > 0 ? [path[0], -1, ...path.slice(1 - MAX_CRUMBS)] : path;
  return (
    <nav aria-label="Zoomed to">
      <ol class="crumbs" data-testid="crumbs">
        <li class="fixed">
          <button type="button" onClick={resetZoom}>
            Reset zoom
          </button>
        </li>
        {shown.map((frame) => (frame < 0 ? <Gap key={frame} count={hidden} /> : <Crumb key={frame} frame={frame} />))}
      </ol>
    </nav>
  );
}

function Gap({ count }: { readonly count: number }) {
  return (
    <li>
      <span class="muted">… {count} more</span>
    </li>
  );
}

function Crumb({ frame }: { readonly frame: number }) {
  const name = frameName(frame);
  return (
    <li>
      <button
        type="button"
        class="quiet"
        title={name}
        aria-current={frame === focusFrame.value ? 'location' : undefined}
        onClick={() => focusOn(frame)}
      >
        {name}
      </button>
    </li>
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
