// The windows on the timeline: made by dragging, moved and resized by pointer (mouse, pen, touch) or by keys.
import { useSignal } from '@preact/signals';
import { useRef } from 'preact/hooks';
import { type Edge, moveEdge, moveSpan, overlaps, spanBetween } from '../logic/windows';
import type { PlotBox } from '../paint/timeline';
import { clearWindows, selectBaseline, selectWindow, suggestBaseline } from '../state/actions';
import { view } from '../state/state';
import type { Span } from '../types/view';
import { formatClock } from './clock-text';

type Which = 'baseline' | 'comparison';

interface Axis {
  readonly box: PlotBox;
  readonly window: Span;
  readonly stepMs: number;
}

/** A window being dragged: where the pointer went down and what it holds. */
interface Drag {
  readonly which: Which;
  readonly grip: 'new' | 'move' | Edge;
  readonly from: number;
  readonly original: Span | null;
}

/** A drag shorter than this is a click. */
const CLICK_PX = 4;

export function Bands(axis: Axis) {
  const plot = useRef<HTMLDivElement>(null);
  const drag = useRef<Drag | null>(null);
  const draft = useSignal<{ readonly which: Which; readonly span: Span } | null>(null);
  const { selected, baseline } = view.value;

  const timeAt = (event: PointerEvent): number => {
    const left = plot.current?.getBoundingClientRect().left ?? 0;
    const { window, box } = axis;
    return window.from + ((event.clientX - left) / Math.max(box.width, 1)) * (window.until - window.from);
  };

  const onDown = (event: PointerEvent): void => {
    if (event.button !== 0) return;
    const target = event.target as HTMLElement;
    const which = (target.closest<HTMLElement>('[data-which]')?.dataset['which'] as Which | undefined) ?? null;
    const grip = (target.dataset['grip'] as Edge | undefined) ?? (which && !event.shiftKey ? 'move' : 'new');
    const made = which && grip !== 'new' ? which : event.shiftKey ? 'baseline' : 'comparison';
    drag.current = { which: made, grip, from: timeAt(event), original: made === 'baseline' ? baseline : selected };
    plot.current?.setPointerCapture(event.pointerId);
  };
  const onMove = (event: PointerEvent): void => {
    const held = drag.current;
    if (!held) return;
    const span = dragged(held, timeAt(event), axis.window);
    draft.value = span && { which: held.which, span };
  };
  const onUp = (event: PointerEvent): void => {
    const held = drag.current;
    drag.current = null;
    draft.value = null;
    if (!held) return;
    const span = dragged(held, timeAt(event), axis.window);
    const px = (Math.abs(timeAt(event) - held.from) / (axis.window.until - axis.window.from)) * axis.box.width;
    if (px < CLICK_PX) {
      if (held.grip === 'new' && !view.peek().baseline && view.peek().selected) clearWindows();
    } else if (span) setWindow(held.which, span);
  };
  const spanOf = (which: Which, settled: Span | null): Span | null =>
    draft.value?.which === which ? draft.value.span : settled;

  return (
    <div
      class="plot"
      ref={plot}
      style={{ left: `${axis.box.left}px`, width: `${axis.box.width}px` }}
      data-testid="plot"
      onPointerDown={onDown}
      onPointerMove={onMove}
      onPointerUp={onUp}
      onPointerCancel={() => {
        drag.current = null;
        draft.value = null;
      }}
    >
      <Band which="baseline" span={spanOf('baseline', baseline)} axis={axis} />
      <Band which="comparison" span={spanOf('comparison', selected)} axis={axis} />
    </div>
  );
}

function dragged(held: Drag, at: number, bounds: Span): Span | null {
  if (held.grip === 'new' || !held.original) return spanBetween(held.from, at, bounds);
  if (held.grip === 'move') return moveSpan(held.original, at - held.from, bounds);
  return moveEdge(held.original, held.grip, at, bounds);
}

function setWindow(which: Which, span: Span, history: 'push' | 'replace' = 'push'): void {
  if (which === 'baseline') selectBaseline(span, history);
  else selectWindow(span, history);
}

interface BandProps {
  readonly which: Which;
  readonly span: Span | null;
  readonly axis: Axis;
}

function Band({ which, span, axis }: BandProps) {
  if (!span || !overlaps(span, axis.window)) return null;
  const { window } = axis;
  const percent = (ms: number): number =>
    (Math.min(Math.max(ms - window.from, 0), window.until - window.from) / (window.until - window.from)) * 100;
  const comparing = view.value.baseline !== null;
  const name = which === 'baseline' ? 'A' : comparing ? 'B' : '';
  return (
    <div
      class={`band ${which}`}
      data-which={which}
      data-testid={`band-${which}`}
      style={{ left: `${percent(span.from)}%`, width: `${percent(span.until) - percent(span.from)}%` }}
    >
      {name && <span aria-hidden="true">{name}</span>}
      <Handle which={which} edge="from" span={span} axis={axis} />
      <Handle which={which} edge="until" span={span} axis={axis} />
    </div>
  );
}

interface HandleProps extends BandProps {
  readonly edge: Edge;
  readonly span: Span;
}

function Handle({ which, edge, span, axis }: HandleProps) {
  const { window, stepMs } = axis;
  const label = which === 'baseline' ? 'Baseline' : view.value.baseline ? 'Comparison' : 'Selected window';
  const onKey = (event: KeyboardEvent): void => {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === 'x' && view.peek().baseline) suggestBaseline('swap');
    else if (direction === undefined) return;
    else if (event.shiftKey) setWindow(which, moveSpan(span, direction * stepMs, window), 'replace');
    else setWindow(which, moveEdge(span, edge, span[edge] + direction * stepMs, window), 'replace');
    event.preventDefault();
  };
  return (
    <div
      class={`handle ${edge}`}
      role="slider"
      tabIndex={0}
      data-grip={edge}
      aria-label={`${label} ${edge === 'from' ? 'start' : 'end'}`}
      aria-valuemin={window.from}
      aria-valuemax={window.until}
      aria-valuenow={span[edge]}
      aria-valuetext={formatClock(span[edge])}
      onKeyDown={onKey}
    />
  );
}
