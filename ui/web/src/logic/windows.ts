// The two windows on the timeline: making, moving and resizing them, and suggesting which two to compare.
import type { Point } from '../types/api';
import type { Span } from '../types/view';
import { lengthOf, SECOND } from './time';

/** Rows are stored at this resolution, so a finer window would promise what no answer can keep. */
const GRID = SECOND;

function snap(ms: number): number {
  return Math.round(ms / GRID) * GRID;
}

/** The window between two times, in either order, inside `bounds`; null when nothing of it is left. */
export function spanBetween(a: number, b: number, bounds: Span): Span | null {
  const from = snap(Math.max(Math.min(a, b), bounds.from));
  const until = snap(Math.min(Math.max(a, b), bounds.until));
  return until - from >= GRID ? { from, until } : null;
}

/** The window moved by `ms`, keeping its length and staying inside `bounds`. */
export function moveSpan(span: Span, ms: number, bounds: Span): Span {
  const length = Math.min(lengthOf(span), lengthOf(bounds));
  const from = snap(Math.min(Math.max(span.from + ms, bounds.from), bounds.until - length));
  return { from, until: from + length };
}

export type Edge = 'from' | 'until';

/** The window with one edge moved to `at`; it never becomes shorter than a second. */
export function moveEdge(span: Span, edge: Edge, at: number, bounds: Span): Span {
  const inside = snap(Math.min(Math.max(at, bounds.from), bounds.until));
  return edge === 'from'
    ? { from: Math.min(inside, span.until - GRID), until: span.until }
    : { from: span.from, until: Math.max(inside, span.from + GRID) };
}

/** The equal window just before this one, or as near to that as the bounds allow. */
export function previousSpan(span: Span, bounds: Span): Span | null {
  const from = Math.max(span.from - lengthOf(span), bounds.from);
  return span.from - from >= GRID ? { from, until: span.from } : null;
}

export function shiftSpan(span: Span, ms: number): Span {
  return { from: span.from + ms, until: span.until + ms };
}

export function overlaps(a: Span, b: Span): boolean {
  return a.from < b.until && b.from < a.until;
}

/** Mean value per bucket in a window; points are buckets that end at their time. */
interface Run {
  readonly span: Span;
  readonly mean: number;
}

function runs(points: readonly Point[], stepMs: number, lengthMs: number): Run[] {
  const buckets = Math.max(1, Math.round(lengthMs / stepMs));
  const found: Run[] = [];
  let sum = 0;
  for (let i = 0; i < points.length; i++) {
    sum += points[i].value;
    if (i >= buckets) sum -= points[i - buckets].value;
    if (i < buckets - 1) continue;
    const until = points[i].atMs;
    found.push({ span: { from: until - buckets * stepMs, until }, mean: sum / buckets });
  }
  return found;
}

/** The window of this length with the most value; null without points. */
export function busiest(points: readonly Point[], stepMs: number, lengthMs: number): Span | null {
  const all = runs(points, stepMs, lengthMs);
  return all.length === 0 ? null : all.reduce((best, run) => (run.mean > best.mean ? run : best)).span;
}

/** The window as long as `span`, apart from it, with the least value above nothing; null when there is none. */
export function quietest(points: readonly Point[], stepMs: number, span: Span): Span | null {
  const all = runs(points, stepMs, lengthOf(span)).filter((run) => run.mean > 0 && !overlaps(run.span, span));
  return all.length === 0 ? null : all.reduce((best, run) => (run.mean < best.mean ? run : best)).span;
}

/** Two windows worth comparing when nobody has chosen any: the busiest sixth of the points against the quietest. */
export function suggestPair(
  points: readonly Point[],
  stepMs: number,
): { readonly baseline: Span; readonly comparison: Span } | null {
  const comparison = busiest(points, stepMs, (points.length * stepMs) / 6);
  const baseline = comparison && quietest(points, stepMs, comparison);
  return comparison && baseline ? { baseline, comparison } : null;
}
