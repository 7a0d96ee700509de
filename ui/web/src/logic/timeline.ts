// From series to what the timeline draws: equal buckets, gaps told from zeros, the biggest series stacked.
import type { Point, Series } from '../types/api';
import type { Span } from '../types/view';

/** The earliest point of any series, or null. */
export function firstPoint(series: readonly Series[]): number | null {
  let first: number | null = null;
  for (const { points } of series) {
    for (const point of points) if (first === null || point.atMs < first) first = point.atMs;
  }
  return first;
}

/**
 * The part of a window in which anything was recorded. Rates divide by its length: fifteen minutes of which one was
 * recorded would otherwise show a busy node as idle.
 */
export function recordedPart(window: Span, firstPointMs: number | null, stepMs: number): Span {
  if (firstPointMs === null) return window;
  const from = Math.min(Math.max(window.from, firstPointMs - stepMs), window.until - 1);
  return { from, until: window.until };
}

/**
 * One value per bucket `(t − step, t]` for t in (from, until]. A bucket without a point is 0 once recording began, for
 * an idle service sends nothing, and null before.
 */
export function fillBuckets(
  points: readonly Point[],
  window: Span,
  stepMs: number,
  recordedFrom: number | null,
): (number | null)[] {
  const count = bucketCount(window, stepMs);
  const filled = Array.from<number | null>({ length: count });
  for (let i = 0; i < count; i++) {
    filled[i] = recordedFrom !== null && window.from + (i + 1) * stepMs >= recordedFrom ? 0 : null;
  }
  for (const point of points) {
    const at = Math.ceil((point.atMs - window.from) / stepMs) - 1;
    if (at >= 0 && at < count) filled[at] = (filled[at] ?? 0) + point.value;
  }
  return filled;
}

function bucketCount(window: Span, stepMs: number): number {
  return Math.max(1, Math.floor((window.until - window.from) / stepMs));
}

/** The right edge of each bucket, unix ms. */
export function bucketTimes(window: Span, stepMs: number): number[] {
  const count = bucketCount(window, stepMs);
  return Array.from({ length: count }, (_, i) => window.from + (i + 1) * stepMs);
}

export interface Layer {
  /** Null for the sum of all series beyond the named ones. */
  readonly label: string | null;
  /** Its own values. */
  readonly values: readonly (number | null)[];
  /** Its values on top of the layers before it. */
  readonly stacked: readonly (number | null)[];
}

/** The series with the most value first, each on top of the one before; all beyond `limit` in one layer. */
export function stackLayers(
  series: readonly { readonly label: string; readonly values: readonly (number | null)[] }[],
  limit: number,
): Layer[] {
  const sum = (values: readonly (number | null)[]): number => values.reduce<number>((a, b) => a + (b ?? 0), 0);
  const sorted = series.toSorted((a, b) => sum(b.values) - sum(a.values));
  const named: { label: string | null; values: readonly (number | null)[] }[] = sorted.slice(0, limit);
  const rest = sorted.slice(limit);
  if (rest.length > 0) named.push({ label: null, values: rest.map((one) => one.values).reduce(addValues) });
  let below: readonly (number | null)[] | null = null;
  return named.map(({ label, values }) => {
    const stacked: readonly (number | null)[] = below ? addValues(below, values) : values;
    below = stacked;
    return { label, values, stacked };
  });
}

function addValues(a: readonly (number | null)[], b: readonly (number | null)[]): (number | null)[] {
  return a.map((value, i) => {
    const other = b[i];
    if (value === null) return other;
    return other === null ? value : value + other;
  });
}

/** The filled buckets as points, without those before recording began. */
export function toPoints(times: readonly number[], values: readonly (number | null)[]): Point[] {
  const points: Point[] = [];
  for (let i = 0; i < times.length; i++) {
    const value = values[i];
    if (value !== null) points.push({ atMs: times[i], value });
  }
  return points;
}
