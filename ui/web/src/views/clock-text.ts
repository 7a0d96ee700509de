// Times as people read them, in the browser's zone, on a 24-hour clock.
import { DAY } from '../logic/time';
import type { Span } from '../types/view';

const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const DATE = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });

export function formatClock(ms: number): string {
  return CLOCK.format(ms);
}

const SHORT = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });

export function formatMinute(ms: number): string {
  return SHORT.format(ms);
}

export function formatWindow(span: Span): string {
  const sameDay = DATE.format(span.from) === DATE.format(span.until) && span.until - span.from < DAY;
  return sameDay
    ? `${CLOCK.format(span.from)} – ${CLOCK.format(span.until)}`
    : `${DATE.format(span.from)} ${CLOCK.format(span.from)} – ${DATE.format(span.until)} ${CLOCK.format(span.until)}`;
}

/** The zone the times are in, for example `UTC` or `GMT+2`. */
export function zoneName(): string {
  const parts = new Intl.DateTimeFormat('en-GB', { timeZoneName: 'short' }).formatToParts();
  return parts.find((part) => part.type === 'timeZoneName')?.value ?? '';
}
