// What is on screen: (columns, placement, view) -> display list, and from a point back to a frame.
//
// Coordinates: a *fraction* runs 0..1 over the whole graph; *x* is CSS pixels from the canvas' left edge; a *row* is a
// level of the graph, counted from the root. Frames thinner than a pixel leave one sliver per pixel and row instead of
// vanishing, and the sliver stands for the weightiest frame it hides.
import type { FlameColumns } from './columns';
import type { Placement } from './placement';

export interface Viewport {
  /** Index of the zoomed frame; its callers span the full width above it. */
  readonly focus: number;
  /** The visible part of the whole graph. */
  readonly from: number;
  readonly until: number;
  readonly widthPx: number;
  readonly firstRow: number;
  readonly rows: number;
}

export interface DisplayList {
  readonly count: number;
  readonly frame: Uint32Array;
  readonly x: Float32Array;
  readonly width: Float32Array;
}

/** Boxes narrower than this become slivers. */
const SLIVER_PX = 1;

export function wholeViewport(placement: Placement, focus: number, widthPx: number): Viewport {
  const from = placement.start[focus];
  return { focus, from, until: from + placement.width[focus], widthPx, firstRow: 0, rows: Number.MAX_SAFE_INTEGER };
}

/** @param weight how much a frame matters among those that share a pixel; the default is its width. */
export function layout(
  columns: FlameColumns,
  placement: Placement,
  view: Viewport,
  weight: Float64Array | Float32Array = placement.width,
): DisplayList {
  const { level, skip } = columns;
  const { start, width } = placement;
  const list = new ListBuilder();
  const scale = view.widthPx / Math.max(view.until - view.from, Number.MIN_VALUE);
  const lastRow = view.firstRow + view.rows;
  const slivers = new Map<number, { pixel: number; at: number }>();

  for (const caller of callersOf(columns, view.focus)) {
    if (level[caller] >= view.firstRow && level[caller] < lastRow) list.add(caller, 0, view.widthPx);
  }
  let i = view.focus;
  const end = skip[view.focus];
  while (i < end) {
    const x = (start[i] - view.from) * scale;
    const w = width[i] * scale;
    if (level[i] >= lastRow || w <= 0 || x >= view.widthPx || x + w <= 0) {
      i = skip[i];
    } else if (w >= SLIVER_PX) {
      if (level[i] >= view.firstRow) list.add(i, x, w);
      i++;
    } else {
      if (level[i] >= view.firstRow) {
        const pixel = Math.floor(x);
        const last = slivers.get(level[i]);
        if (last?.pixel !== pixel) slivers.set(level[i], { pixel, at: list.add(i, pixel, SLIVER_PX) });
        else if (weight[i] > weight[list.frameAt(last.at)]) list.replace(last.at, i);
      }
      i = skip[i];
    }
  }
  return list.finish();
}

/** Growing typed arrays: a display list is rebuilt on every wheel turn, and plain arrays would double its cost. */
class ListBuilder {
  private count = 0;
  private frame = new Uint32Array(1024);
  private x = new Float32Array(1024);
  private width = new Float32Array(1024);

  add(frame: number, x: number, width: number): number {
    if (this.count === this.frame.length) this.grow();
    this.frame[this.count] = frame;
    this.x[this.count] = x;
    this.width[this.count] = width;
    return this.count++;
  }

  frameAt(at: number): number {
    return this.frame[at];
  }

  replace(at: number, frame: number): void {
    this.frame[at] = frame;
  }

  finish(): DisplayList {
    const { count } = this;
    return {
      count,
      frame: this.frame.subarray(0, count),
      x: this.x.subarray(0, count),
      width: this.width.subarray(0, count),
    };
  }

  private grow(): void {
    const frame = new Uint32Array(this.count * 2);
    const x = new Float32Array(this.count * 2);
    const width = new Float32Array(this.count * 2);
    frame.set(this.frame);
    x.set(this.x);
    width.set(this.width);
    Object.assign(this, { frame, x, width });
  }
}

/** The callers of a frame, root first, without the frame itself. */
export function callersOf(columns: FlameColumns, frame: number): number[] {
  const callers: number[] = [];
  for (let i = frame; i !== 0; ) {
    i = columns.parent[i];
    callers.push(i);
  }
  return callers.toReversed();
}

/** The frame at a point, or -1. */
export function frameAt(columns: FlameColumns, placement: Placement, view: Viewport, point: Point): number {
  if (point.x < 0 || point.x >= view.widthPx || point.row < 0) return -1;
  const focusLevel = columns.level[view.focus];
  if (point.row < focusLevel) return callersOf(columns, view.focus)[point.row];
  const fraction = view.from + (point.x / view.widthPx) * (view.until - view.from);
  let frame = view.focus;
  while (columns.level[frame] < point.row) {
    frame = childAt(columns, placement, frame, fraction);
    if (frame < 0) return -1;
  }
  return frame;
}

export interface Point {
  readonly x: number;
  readonly row: number;
}

function childAt(columns: FlameColumns, placement: Placement, parent: number, fraction: number): number {
  for (let child = parent + 1; child < columns.skip[parent]; child = columns.skip[child]) {
    const from = placement.start[child];
    if (fraction >= from && fraction < from + placement.width[child]) return child;
  }
  return -1;
}

/** Zooms by `factor` (above 1: closer) about a fraction, within the focus. */
export function zoomAbout(placement: Placement, view: Viewport, fraction: number, factor: number): Viewport {
  const low = placement.start[view.focus];
  const span = Math.max(placement.width[view.focus], Number.MIN_VALUE);
  const length = Math.min(span, Math.max((view.until - view.from) / factor, span * 1e-7));
  const kept = (fraction - view.from) / Math.max(view.until - view.from, Number.MIN_VALUE);
  const from = Math.min(Math.max(fraction - kept * length, low), low + span - length);
  return { ...view, from, until: from + length };
}

/** Moves the view sideways by a number of pixels, within the focus. */
export function panBy(placement: Placement, view: Viewport, px: number): Viewport {
  const length = view.until - view.from;
  const low = placement.start[view.focus];
  const high = low + placement.width[view.focus] - length;
  const from = Math.min(Math.max(view.from + (px / view.widthPx) * length, low), Math.max(low, high));
  return { ...view, from, until: from + length };
}
