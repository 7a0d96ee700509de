// Time ranges: writing and reading them, resolving them against a clock, and choosing the step of a timeline.
// Times are unix milliseconds throughout.
import type { Span, TimePoint, TimeRange } from '../types/view';

export const SECOND = 1000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

const UNITS: readonly (readonly [string, number])[] = [
  ['d', DAY],
  ['h', HOUR],
  ['m', MINUTE],
  ['s', SECOND],
];

/** The ranges offered in the header, and the words a screen reader hears. */
export const PRESETS: readonly { readonly ago: number; readonly label: string; readonly spoken: string }[] = [
  { ago: 5 * MINUTE, label: '5m', spoken: 'Last 5 minutes' },
  { ago: 15 * MINUTE, label: '15m', spoken: 'Last 15 minutes' },
  { ago: HOUR, label: '1h', spoken: 'Last hour' },
  { ago: 6 * HOUR, label: '6h', spoken: 'Last 6 hours' },
  { ago: DAY, label: '24h', spoken: 'Last 24 hours' },
];

export function writeTimePoint(point: TimePoint): string {
  if ('at' in point) return String(point.at);
  if (point.ago === 0) return 'now';
  const [letter, size] = UNITS.find(([, ms]) => point.ago % ms === 0) ?? ['s', SECOND];
  return `now-${Math.round(point.ago / size)}${letter}`;
}

/** Reads `now`, `now-15m` or unix milliseconds; null when it is neither. */
export function readTimePoint(text: string): TimePoint | null {
  if (text === 'now') return { ago: 0 };
  const relative = /^now-(\d{1,6})([smhd])$/.exec(text);
  if (relative) {
    const unit = UNITS.find(([letter]) => letter === relative[2]);
    return unit ? { ago: Number(relative[1]) * unit[1] } : null;
  }
  return /^\d{1,15}$/.test(text) ? { at: Number(text) } : null;
}

export function isRelative(range: TimeRange): boolean {
  return 'ago' in range.until;
}

export function absoluteRange(span: Span): TimeRange {
  return { from: { at: span.from }, until: { at: span.until } };
}

function resolvePoint(point: TimePoint, now: number): number {
  return 'at' in point ? point.at : now - point.ago;
}

/** The range in whole seconds, the resolution of the store's rows. */
export function resolveRange(range: TimeRange, now: number): Span {
  const second = Math.floor(now / SECOND) * SECOND;
  const until = resolvePoint(range.until, second);
  return { from: Math.min(resolvePoint(range.from, second), until - SECOND), until };
}

/** Samples reach the store up to two seconds late. */
const INGEST_LAG = 2 * SECOND;

/**
 * The part of a range that a timeline draws: whole steps, the last of them complete, for a bucket that is still filling
 * would always end the line in a dip.
 */
export function chartWindow(range: Span, now: number): Span {
  const step = stepFor(lengthOf(range));
  const until = Math.floor(Math.min(range.until, now - INGEST_LAG) / step) * step;
  const from = Math.floor(range.from / step) * step;
  return { from, until: Math.max(until, from + step) };
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 86_400];
const BUCKETS = 240;

/** The bucket width, in ms, that gives a range about two hundred bars. */
export function stepFor(lengthMs: number): number {
  const wanted = lengthMs / BUCKETS / SECOND;
  return (STEPS.find((step) => step >= wanted) ?? 86_400) * SECOND;
}

/** How often a relative range is asked for again. */
export function refreshInterval(lengthMs: number): number {
  if (lengthMs <= HOUR) return 5 * SECOND;
  return lengthMs <= 6 * HOUR ? 15 * SECOND : MINUTE;
}

export function lengthOf(span: Span): number {
  return span.until - span.from;
}

export function sameSpan(a: Span | null, b: Span | null): boolean {
  return a === b || (a !== null && b !== null && a.from === b.from && a.until === b.until);
}
