// Where each frame lies in the whole graph, as fractions of the root: start and width per frame.
// A diff weighs each side by its own window (cores) or its own whole (share), so windows may differ in length.
import type { Basis } from '../../types/view';
import type { FlameColumns } from './columns';

export interface Placement {
  readonly start: Float64Array;
  readonly width: Float64Array;
}

/** What one unit of each side's values is worth, in cores or in share. */
export interface Weights {
  readonly baseline: number;
  readonly comparison: number;
}

/** Weights that turn each side's values into `1` per whole of that side. */
export function shareWeights(columns: FlameColumns): Weights {
  const inverse = (whole: number): number => (whole > 0 ? 1 / whole : 0);
  return { comparison: inverse(columns.total[0]), baseline: inverse(columns.base?.total[0] ?? 0) };
}

/** Weights that turn each side's values into `unit`s per second of that side's window, such as cores. */
export function rateWeights(seconds: { readonly baseline: number; readonly comparison: number }, unit: number): Weights {
  const weight = (length: number): number => (length > 0 ? unit / length : 0);
  return { baseline: weight(seconds.baseline), comparison: weight(seconds.comparison) };
}

export function place(columns: FlameColumns, basis: Basis, weights: Weights): Placement {
  const width = new Float64Array(columns.count);
  const start = new Float64Array(columns.count);
  const { base } = columns;
  const ofComparison = base && basis === 'baseline' ? 0 : weights.comparison;
  const ofBaseline = base && basis !== 'comparison' ? weights.baseline : 0;
  for (let i = 0; i < columns.count; i++) {
    width[i] = columns.total[i] * ofComparison + (base ? base.total[i] * ofBaseline : 0);
  }
  const whole = width[0] > 0 ? width[0] : 1;
  const next = new Float64Array(columns.count);
  for (let i = 0; i < columns.count; i++) {
    width[i] /= whole;
    if (i > 0) {
      const caller = columns.parent[i];
      start[i] = next[caller];
      next[caller] += width[i];
    }
    next[i] = start[i];
  }
  return { start, width };
}
