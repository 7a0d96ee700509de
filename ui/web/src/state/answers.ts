// What the server answered, kept in step with the state: one resource per question.
import { computed } from '@preact/signals';
import { fetchDiff, fetchFlame, fetchProfileTypes, fetchSeries, fetchServices, fetchUnwind, type Subject } from '../api/pyrite';
import { diffColumns, type FlameColumns, singleColumns } from '../logic/flame/columns';
import { writeSelector } from '../logic/selector';
import { measureOf } from '../logic/measure';
import { chartWindow, isRelative, lengthOf, resolveRange, stepFor, writeTimePoint } from '../logic/time';
import { bucketTimes, fillBuckets, firstPoint, recordedPart, toPoints } from '../logic/timeline';
import type { Span } from '../types/view';
import { resource } from './resource';
import { now, retries, view } from './state';

/** The asked range, in absolute times. */
export const range = computed<Span>(() => resolveRange(view.value.range, now.value));

/** The part of the range the timeline draws. */
const chart = computed<Span>(() => chartWindow(range.value, now.value));

export const stepMs = computed(() => stepFor(lengthOf(range.value)));

export const subject = computed<Subject>(() => ({
  profileType: view.value.profileType,
  selector: writeSelector(view.value.matchers),
}));

export const measure = computed(() => measureOf(view.value.profileType));

/** Names the range for `about`: a relative one keeps its name while the clock moves. */
const rangeName = computed(() => {
  const { from, until } = view.value.range;
  return `${writeTimePoint(from)} ${writeTimePoint(until)}`;
});

export const services = resource(
  computed(() => ({ about: rangeName.value, ask: range.value })),
  retries,
  fetchServices,
);

export const profileTypes = resource(
  computed(() => ({ about: rangeName.value, ask: range.value })),
  retries,
  fetchProfileTypes,
);

/** How many stacks of the last minute are complete: always of now, whatever the range. */
export const unwind = resource(
  computed(() => ({ about: 'unwind', ask: now.value })),
  retries,
  (_, cancel) => fetchUnwind(cancel),
);

/** The node's use by service: the sparklines, the stacked timeline, and since when anything was recorded. */
export const overviewAbout = computed(() => `${rangeName.value} ${view.value.profileType}`);
export const overview = resource(
  computed(() => ({
    about: overviewAbout.value,
    ask: {
      profileType: view.value.profileType,
      selector: '{}',
      window: chart.value,
      stepMs: stepMs.value,
      groupBy: ['service_name'],
    },
  })),
  retries,
  async (ask, cancel) => ({ ...ask, series: await fetchSeries(ask, cancel) }),
);

/** The chosen subject over time; without matchers the overview already says it. */
export const seriesAbout = computed(() => `${overviewAbout.value} ${subject.value.selector}`);
export const chosenSeries = resource(
  computed(() =>
    view.value.matchers.length === 0
      ? null
      : { about: seriesAbout.value, ask: { ...subject.value, window: chart.value, stepMs: stepMs.value, groupBy: [] } },
  ),
  retries,
  async (ask, cancel) => ({ ...ask, series: await fetchSeries(ask, cancel) }),
);

export interface GraphData {
  readonly columns: FlameColumns;
  readonly window: Span;
  /** Set when this is a diff. */
  readonly baseline: Span | null;
  readonly profileType: string;
}

/** The window the flame graph is of: the selected one, else the whole range. */
export const window = computed<Span>(() => view.value.selected ?? range.value);

export const graphAbout = computed(() => {
  const { selected, baseline } = view.value;
  return `${subject.value.profileType} ${subject.value.selector} ${JSON.stringify([selected ?? rangeName.value, baseline])}`;
});

export const graph = resource(
  computed(() => ({
    about: graphAbout.value,
    ask: { subject: subject.value, window: window.value, baseline: view.value.baseline },
  })),
  retries,
  async ({ subject: asked, window: comparison, baseline }, cancel): Promise<GraphData> => {
    const columns = baseline
      ? diffColumns(await fetchDiff(asked, { baseline, comparison }, cancel))
      : singleColumns(await fetchFlame(asked, comparison, cancel));
    return { columns, window: comparison, baseline, profileType: asked.profileType };
  },
);

/** End of the first bucket that holds anything, of any service; null while unknown. */
export const firstRecorded = computed(() => firstPoint(overview.answer.value.data?.series ?? []));

/** Seconds of a window in which anything was recorded; what rates are divided by. */
export function recordedSeconds(span: Span): number {
  const { data } = overview.answer.value;
  const first = data && data.window.from <= span.from ? firstRecorded.value : null;
  return lengthOf(recordedPart(span, first, data?.stepMs ?? stepMs.value)) / 1000;
}

/** The series the timeline shows, in equal buckets. */
export const timeline = computed(() => {
  const { data } = view.value.matchers.length === 0 ? overview.answer.value : chosenSeries.answer.value;
  if (!data) return null;
  const first = firstRecorded.value;
  const times = bucketTimes(data.window, data.stepMs);
  const lines = data.series.map((series) => ({
    label: series.labels['service_name'] ?? '',
    values: fillBuckets(series.points, data.window, data.stepMs, first),
  }));
  return { times, lines, window: data.window, stepMs: data.stepMs, profileType: data.profileType };
});

/** The timeline's sum as points, for suggesting windows. */
export const timelinePoints = computed(() => {
  const data = timeline.value;
  if (!data) return [];
  const sums = data.times.map((_, i) => {
    const known = data.lines.map((line) => line.values[i]).filter((value) => value !== null);
    return known.length === 0 ? null : known.reduce((a, b) => a + b, 0);
  });
  return toPoints(data.times, sums);
});

export const isLiveRange = computed(() => isRelative(view.value.range));

/** True while any question is open; the refresh clock waits for it, so that a slow server is never asked twice. */
export const anyPending = computed(() =>
  [services, profileTypes, overview, chosenSeries, graph].some((one) => one.answer.value.pending),
);
