// The timeline of what is chosen, with the selected window and, when comparing, the baseline.
import { useComputed } from '@preact/signals';
import { useEffect, useRef, useState } from 'preact/hooks';
import { formatBare, formatSeconds, toQuantity } from '../logic/measure';
import { lengthOf, MINUTE } from '../logic/time';
import { drawTimeline, type PlotBox } from '../paint/timeline';
import { clearWindows, rangeToSelection, suggestBaseline, type Suggestion, toggleCompare } from '../state/actions';
import {
  chosenSeries,
  firstRecorded,
  measure,
  overview,
  overviewAbout,
  range,
  seriesAbout,
  stepMs,
  timeline,
} from '../state/answers';
import { rootName } from '../state/graph';
import { palette } from '../state/document';
import { view } from '../state/state';
import { Bands } from './Bands';
import { formatClock, formatMinute, formatWindow } from './clock-text';
import { layers } from './layers';
import { Empty, ErrorNotice, Skeleton } from './Notice';

const HEIGHT_PX = 136;

export function TimelinePanel() {
  const isWhole = view.value.matchers.length === 0;
  const source = isWhole ? overview : chosenSeries;
  const { data, error, pending } = source.answer.value;
  const stale = source.isStale(isWhole ? overviewAbout.value : seriesAbout.value);
  const recordedFrom = firstRecorded.value === null ? null : firstRecorded.value - stepMs.value;
  return (
    <section class="panel" aria-labelledby="timeline-title" aria-busy={pending}>
      <div class="bar">
        <h2 id="timeline-title">{rootName}</h2>
        <span class="muted">
          {measure.value === 'cpu' ? 'CPU cores in use' : 'per second'}
          {recordedFrom !== null && recordedFrom > range.value.from && ` · recording since ${formatClock(recordedFrom)}`}
        </span>
        <span class="grow" />
        <WindowControls />
      </div>
      {error !== null && <ErrorNotice error={error} about="Timeline:" />}
      {data ? (
        <div class={stale ? 'stale' : ''}>
          {data.series.length === 0 && !pending ? (
            <Empty title="Nothing was recorded here">
              No samples of {rootName} in this range. Choose a longer range or another service.
            </Empty>
          ) : (
            <Chart />
          )}
        </div>
      ) : (
        pending && <Skeleton label="Loading the timeline" widths={[100, 100, 100]} />
      )}
    </section>
  );
}

function Chart() {
  const host = useRef<HTMLDivElement>(null);
  const [box, setBox] = useState<PlotBox>({ left: 0, width: 0 });
  const [width, setWidth] = useState(0);
  const picture = useComputed(() => {
    const data = timeline.value;
    return data && { data, layers: layers.value, palette: palette.value, measure: measure.value };
  });
  useEffect(() => {
    if (!host.current) return undefined;
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    observer.observe(host.current);
    return () => observer.disconnect();
  }, []);
  const shown = picture.value;
  useEffect(() => {
    if (!host.current || !shown || width === 0) return undefined;
    const { data } = shown;
    const scale = { measure: shown.measure, quantity: 'rate', seconds: data.stepMs / 1000, whole: 0 } as const;
    return drawTimeline(
      host.current,
      {
        times: data.times,
        layers: shown.layers,
        window: data.window,
        palette: shown.palette,
        formatValue: (value) => formatBare(toQuantity(value, scale), scale),
        formatTime: lengthOf(data.window) < 10 * MINUTE ? formatClock : formatMinute,
        onPlaced: setBox,
      },
      HEIGHT_PX,
    );
  }, [shown, width]);
  return (
    <div class="timeline">
      <div ref={host} aria-hidden="true" />
      {shown && box.width > 0 && <Bands box={box} window={shown.data.window} stepMs={shown.data.stepMs} />}
    </div>
  );
}

const SUGGESTIONS: readonly (readonly [Suggestion, string])[] = [
  ['previous', 'Previous'],
  ['quietest', 'Quietest'],
  ['hour', '1 h earlier'],
  ['day', '1 day earlier'],
  ['swap', 'Swap'],
];

function WindowControls() {
  const { selected, baseline } = view.value;
  return (
    <>
      {baseline && (
        <>
          <span class="window-a" data-testid="window-a">
            A {formatWindow(baseline)}
          </span>
          <span class="window-b" data-testid="window-b">
            B {selected && formatWindow(selected)}
          </span>
          <span class="group" role="group" aria-label="Baseline">
            {SUGGESTIONS.map(([how, label]) => (
              <button type="button" key={how} onClick={() => suggestBaseline(how)}>
                {label}
              </button>
            ))}
          </span>
        </>
      )}
      {selected && !baseline && (
        <>
          <span class="window-b" data-testid="window-b">
            {formatWindow(selected)} ({formatSeconds(lengthOf(selected) / 1000)})
          </span>
          <button type="button" onClick={rangeToSelection}>
            Zoom in
          </button>
        </>
      )}
      {selected && (
        <button type="button" onClick={clearWindows}>
          Clear
        </button>
      )}
      {!selected && <span class="muted">drag to select, Shift-drag to compare</span>}
      <button type="button" aria-pressed={baseline !== null} onClick={toggleCompare} data-testid="compare">
        Compare
      </button>
    </>
  );
}
