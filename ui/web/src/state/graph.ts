// What follows from the flame graph and the state: placement, scale, matches, table rows, the frames in focus.
import { computed } from '@preact/signals';
import { MAX_NODES } from '../api/pyrite';
import { changeSizes, type DiffScale, diffSteps } from '../logic/flame/diff';
import { emptyColumns } from '../logic/flame/columns';
import { functionRows, sortRows } from '../logic/flame/functions';
import { frameAt, type Viewport, wholeViewport } from '../logic/flame/layout';
import { place, rateWeights, shareWeights } from '../logic/flame/placement';
import { findMatches, readSearch } from '../logic/flame/search';
import { findStack } from '../logic/flame/stack-id';
import type { Scale } from '../logic/measure';
import { measureOf, unitOf } from '../logic/measure';
import { valueOf } from '../logic/selector';
import { graph, recordedSeconds, services } from './answers';
import { canvasWidth, cursorStack, pointer, view, zoom } from './state';

const EMPTY = emptyColumns();

export const columns = computed(() => graph.answer.value.data?.columns ?? EMPTY);
export const isEmpty = computed(() => columns.value.total[0] === 0 && (columns.value.base?.total[0] ?? 0) === 0);

/** Whether what is on screen is a diff; the view may already ask for another. */
export const isDiff = computed(() => columns.value.base !== null);

const seconds = computed(() => {
  const { data } = graph.answer.value;
  return {
    comparison: data ? recordedSeconds(data.window) : 1,
    baseline: data?.baseline ? recordedSeconds(data.baseline) : 1,
  };
});

/** A diff has no amounts: sums of windows that differ in length cannot be compared. */
export const quantity = computed(() =>
  isDiff.value && view.value.quantity === 'amount' ? 'rate' : view.value.quantity,
);

export interface Scales {
  readonly comparison: Scale;
  readonly baseline: Scale;
}

export const scales = computed<Scales>(() => {
  const { data } = graph.answer.value;
  const common = { measure: measureOf(data?.profileType ?? view.value.profileType), quantity: quantity.value };
  return {
    comparison: { ...common, seconds: seconds.value.comparison, whole: columns.value.total[0] },
    baseline: { ...common, seconds: seconds.value.baseline, whole: columns.value.base?.total[0] ?? 0 },
  };
});

export const weights = computed(() =>
  quantity.value === 'share'
    ? shareWeights(columns.value)
    : rateWeights(seconds.value, unitOf(scales.value.comparison.measure)),
);

export const placement = computed(() => place(columns.value, view.value.basis, weights.value));

/** CPU time says how many samples it stands for; other values do not, and then no change is called noise. */
export const diffScale = computed<DiffScale>(() => {
  const hz = services.answer.value.data?.node.frequencyHz ?? 0;
  return { weights: weights.value, samplesPerValue: scales.value.comparison.measure === 'cpu' ? hz / 1e9 : 0 };
});

export const steps = computed(() => diffSteps(columns.value, diffScale.value));
export const changes = computed(() => changeSizes(columns.value, weights.value));

export const focusFrame = computed(() => Math.max(0, findStack(columns.value, view.value.focus)));
/** True when a link's zoomed frame is not in this window. */
export const focusMissing = computed(() => findStack(columns.value, view.value.focus) < 0);
export const cursorFrame = computed(() => Math.max(0, findStack(columns.value, cursorStack.value)));

export const viewport = computed<Viewport>(() => {
  const whole = wholeViewport(placement.value, focusFrame.value, canvasWidth.value);
  return zoom.value ? { ...whole, ...zoom.value } : whole;
});

export const hoverFrame = computed(() =>
  pointer.value ? frameAt(columns.value, placement.value, viewport.value, pointer.value) : -1,
);

export const search = computed(() => (view.value.search === '' ? null : readSearch(view.value.search)));
export const searchError = computed(() => (search.value && 'error' in search.value ? search.value.error : null));
export const matches = computed(() =>
  search.value && 'test' in search.value ? findMatches(columns.value, search.value.test) : null,
);

export const functions = computed(() => functionRows(columns.value));
export const tableFunctions = computed(() => {
  const found = matches.value;
  const shown = found ? functions.value.filter((row) => found.names[row.index] === 1) : functions.value;
  const sort = view.value.sort.column === 'delta' && !isDiff.value
    ? { column: 'self' as const, descending: true }
    : view.value.sort;
  return sortRows(shown, sort, weights.value);
});

/** Share of the graph in frames too thin to be sent, which the server folds into `other`; 0 unless it had to fold. */
export const foldedShare = computed(() => {
  const { count, names, name, total } = columns.value;
  if (count < MAX_NODES * 0.9 || total[0] === 0) return 0;
  let folded = 0;
  for (let i = 1; i < count; i++) if (names[name[i]] === 'other') folded += total[i];
  return folded / total[0];
});

/** What the root frame is called: what was asked for. */
export const rootName = computed(() => {
  const service = valueOf(view.value.matchers, 'service_name');
  if (service) return service;
  return view.value.matchers.length > 0 ? 'Selection' : 'Whole node';
});

export function frameName(frame: number): string {
  return frame === 0 ? rootName.value : columns.value.names[columns.value.name[frame]];
}
