// What a profile's values mean and how people read them: cores, CPU time, bytes or counts, never raw nanoseconds.
import type { Quantity } from '../types/view';

/** What the values of a profile type are. */
export type Measure = 'cpu' | 'time' | 'bytes' | 'count';

/** The measure of a profile type id, `name:sample_type:sample_unit:period_type:period_unit`. */
export function measureOf(profileType: string): Measure {
  const [name = '', sampleType = '', unit = ''] = profileType.split(':');
  if (unit === 'nanoseconds') return name === 'process_cpu' || sampleType === 'cpu' ? 'cpu' : 'time';
  return unit === 'bytes' ? 'bytes' : 'count';
}

/** What a value is compared with: the window's length and the value of the whole graph. */
export interface Scale {
  readonly measure: Measure;
  readonly quantity: Quantity;
  readonly seconds: number;
  readonly whole: number;
}

/** What one stored value is in the unit people read: nanoseconds become seconds. */
export function unitOf(measure: Measure): number {
  return measure === 'cpu' || measure === 'time' ? 1e-9 : 1;
}

/** `value` in the unit people read: cores, seconds, bytes, counts or a fraction of 1. */
export function toQuantity(value: number, scale: Scale): number {
  if (scale.quantity === 'share') return scale.whole > 0 ? value / scale.whole : 0;
  const amount = value * unitOf(scale.measure);
  if (scale.quantity === 'amount') return amount;
  return scale.seconds > 0 ? amount / scale.seconds : 0;
}

/** Writes a number in the scale's unit, for example `1.24 cores`. */
export function formatQuantity(number: number, scale: Pick<Scale, 'measure' | 'quantity'>): string {
  if (scale.quantity === 'share') return formatShare(number);
  if (scale.quantity === 'amount') return formatAmount(number, scale.measure);
  if (scale.measure === 'cpu') return formatCores(number);
  if (scale.measure === 'time') return `${formatSeconds(number)}/s`;
  return `${formatAmount(number, scale.measure)}/s`;
}

export function formatValue(value: number, scale: Scale): string {
  return formatQuantity(toQuantity(value, scale), scale);
}

/** A change with its sign in words and shape: `▲ +0.42 cores`, `▼ −0.10 cores`, `= no change`. */
export function formatDelta(number: number, scale: Pick<Scale, 'measure' | 'quantity'>): string {
  const size = Math.abs(number);
  const text = scale.quantity === 'share' ? `${significant(size * 100)} pp` : formatQuantity(size, scale);
  if (size === 0 || Number.parseFloat(text) === 0) return '= no change';
  return number > 0 ? `▲ +${text}` : `▼ −${text}`;
}

/** A quantity without its unit, for columns whose heading names it. */
export function formatBare(number: number, scale: Pick<Scale, 'measure' | 'quantity'>): string {
  const text = formatQuantity(number, scale);
  return scale.measure === 'cpu' && scale.quantity === 'rate' ? text.replace(/ cores?$/, '') : text;
}

/** The name of a quantity of a measure, for headings and switches. */
export function quantityName(measure: Measure, quantity: Quantity): string {
  if (quantity === 'share') return 'Share';
  if (quantity === 'amount') return { cpu: 'CPU time', time: 'Time', bytes: 'Bytes', count: 'Count' }[measure];
  return measure === 'cpu' ? 'Cores' : 'Per second';
}

export function formatCores(cores: number): string {
  if (cores > 0 && cores < 0.0005) return '<0.001 cores';
  return `${significant(cores)} ${cores === 1 ? 'core' : 'cores'}`;
}

export function formatShare(fraction: number): string {
  const percent = fraction * 100;
  if (percent > 0 && percent < 0.01) return '<0.01 %';
  return `${percent >= 99.95 || percent === 0 ? percent.toFixed(0) : percent.toFixed(percent >= 9.995 ? 1 : 2)} %`;
}

export function formatAmount(amount: number, measure: Measure): string {
  if (measure === 'cpu' || measure === 'time') return formatSeconds(amount);
  const units = measure === 'bytes' ? ['B', 'KiB', 'MiB', 'GiB', 'TiB'] : ['', 'k', 'M', 'G', 'T'];
  const base = measure === 'bytes' ? 1024 : 1000;
  let scaled = amount;
  let unit = 0;
  while (Math.abs(scaled) >= base && unit < units.length - 1) {
    scaled /= base;
    unit++;
  }
  return `${significant(scaled)} ${units[unit] ?? ''}`.trim();
}

export function formatSeconds(seconds: number): string {
  if (seconds === 0) return '0 s';
  if (seconds < 0.001) return `${significant(seconds * 1e6)} µs`;
  if (seconds < 1) return `${significant(seconds * 1000)} ms`;
  if (seconds < 120) return `${significant(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return `${minutes} min ${String(Math.floor(seconds % 60)).padStart(2, '0')} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

/** Three significant digits, at most three decimals, no exponent. Columns of them line up. */
function significant(number: number): string {
  const size = Math.abs(number);
  if (size >= 100) return number.toFixed(0);
  if (size >= 10) return number.toFixed(1);
  if (size === 0) return '0';
  return number.toFixed(size >= 1 ? 2 : 3);
}
