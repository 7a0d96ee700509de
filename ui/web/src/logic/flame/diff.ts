// How a frame changed between baseline and comparison, and whether that is more than sampling noise.
import type { FlameColumns } from './columns';
import type { Weights } from './placement';

/** Steps of change each way around "no change"; the palette has one colour for each. */
export const DIFF_STEPS = 4;

/** Relative change from which a frame takes step 1, 2, 3 and 4. */
const STEP_AT = [0.05, 0.2, 0.4, 0.7];

/** Changes within this many standard errors stay neutral. */
const NOISE_Z = 2;

export interface DiffScale {
  readonly weights: Weights;
  /** Samples per unit of value; 0 when unknown, which switches the noise test off. */
  readonly samplesPerValue: number;
}

export type Change = 'grew' | 'shrank' | 'same' | 'new' | 'gone';

export interface FrameChange {
  readonly kind: Change;
  /** -4..4; 0 is neutral. */
  readonly step: number;
  /** Comparison minus baseline, in the weights' unit. */
  readonly delta: number;
}

export function frameChange(baseline: number, comparison: number, scale: DiffScale): FrameChange {
  const before = baseline * scale.weights.baseline;
  const after = comparison * scale.weights.comparison;
  const delta = after - before;
  const largest = Math.max(before, after);
  if (largest === 0 || isNoise(baseline, comparison, scale)) return { kind: 'same', step: 0, delta };
  if (baseline === 0) return { kind: 'new', step: DIFF_STEPS, delta };
  if (comparison === 0) return { kind: 'gone', step: -DIFF_STEPS, delta };
  const relative = Math.abs(delta) / largest;
  const step = STEP_AT.filter((limit) => relative >= limit).length;
  if (step === 0) return { kind: 'same', step: 0, delta };
  return delta > 0 ? { kind: 'grew', step, delta } : { kind: 'shrank', step: -step, delta };
}

/** Sample counts are Poisson: the variance of `nB·wB − nA·wA` is `nB·wB² + nA·wA²`. */
function isNoise(baseline: number, comparison: number, scale: DiffScale): boolean {
  if (scale.samplesPerValue === 0) return false;
  const { baseline: wa, comparison: wb } = scale.weights;
  const variance = (comparison * wb * wb + baseline * wa * wa) / scale.samplesPerValue;
  const delta = comparison * wb - baseline * wa;
  return delta * delta < NOISE_Z * NOISE_Z * variance;
}

/** Per frame its palette step, -4..4. */
export function diffSteps(columns: FlameColumns, scale: DiffScale): Int8Array {
  const steps = new Int8Array(columns.count);
  const { base } = columns;
  if (base) {
    for (let i = 0; i < columns.count; i++) steps[i] = frameChange(base.total[i], columns.total[i], scale).step;
  }
  return steps;
}

/** Per frame the size of its change, by which a sliver chooses the frame it stands for. */
export function changeSizes(columns: FlameColumns, weights: Weights): Float64Array {
  const sizes = new Float64Array(columns.count);
  const { base } = columns;
  if (base) {
    for (let i = 0; i < columns.count; i++) {
      sizes[i] = Math.abs(columns.total[i] * weights.comparison - base.total[i] * weights.baseline);
    }
  }
  return sizes;
}
