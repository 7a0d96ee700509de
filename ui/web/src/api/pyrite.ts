// The questions the page asks. Each function is one request and returns the page's own types.
import type { Flamebearer, Labels, ProfileType, Series, Service, ServiceKind, ServicesAnswer, UnwindScore } from '../types/api';
import type { Span } from '../types/view';
import { callQuerier, getJson, isObject, type Json, list, number, objects, strings, text } from './http';

/** Detail asked for: more than a screen can show, so that zooming finds frames; JSON stays quick to parse. */
export const MAX_NODES = 32_768;
const MAX_SERIES = 100;

/** A span as the server's closed interval of whole milliseconds. */
function closed(span: Span): { readonly start: number; readonly end: number } {
  return { start: span.from + 1, end: span.until };
}

export interface Subject {
  readonly profileType: string;
  /** A selector with braces. */
  readonly selector: string;
}

export async function fetchServices(window: Span, cancel: AbortSignal): Promise<ServicesAnswer> {
  const { start, end } = closed(window);
  const answer = await getJson(`/api/v1/services?from=${start}&until=${end}`, cancel);
  const node = isObject(answer['node']) ? answer['node'] : {};
  return {
    node: { name: text(node['name']), frequencyHz: number(node['frequency_hz']), event: text(node['event']) },
    services: objects(answer['services']).map(toService),
  };
}

const KINDS: readonly ServiceKind[] = ['container', 'unit', 'process', 'kernel', 'pushed'];

function toService(json: Json): Service {
  const labels = isObject(json['labels']) ? json['labels'] : {};
  return {
    name: text(json['service_name']),
    kind: KINDS.find((kind) => kind === json['kind']) ?? 'process',
    cpuSeconds: number(json['cpu_seconds']),
    idle: json['idle'] === true,
    labels: Object.fromEntries(Object.entries(labels).map(([name, value]) => [name, text(value)])),
    profileTypes: strings(json['profile_types']),
  };
}

/** Null where no agent runs beside the server. */
export async function fetchUnwind(cancel: AbortSignal): Promise<UnwindScore | null> {
  const { unwind } = await getJson('/api/v1/unwind', cancel);
  if (!isObject(unwind)) return null;
  const named = (json: Json) => ({ name: text(json['name']), reason: text(json['reason']) });
  const offCpu = unwind['off_cpu'];
  return {
    stacks: number(unwind['stacks']),
    complete: number(unwind['complete']),
    guessed: number(unwind['guessed']),
    reasons: objects(unwind['reasons']).map((json) => ({
      reason: text(json['reason']),
      help: text(json['help']),
      stacks: number(json['stacks']),
    })),
    executables: objects(unwind['executables']).map((json) => ({
      ...named(json),
      passed: number(json['passed']),
      stopped: number(json['stopped']),
    })),
    processes: objects(unwind['processes']).map((json) => ({
      ...named(json),
      tgid: number(json['tgid']),
      stacks: number(json['stacks']),
      complete: number(json['complete']),
    })),
    offCpu: isObject(offCpu) ? { captured: number(offCpu['captured']), shed: number(offCpu['shed']), lost: number(offCpu['lost']) } : null,
  };
}

export async function fetchProfileTypes(window: Span, cancel: AbortSignal): Promise<readonly ProfileType[]> {
  const answer = await callQuerier('ProfileTypes', closed(window), cancel);
  return objects(answer['profileTypes']).map((json) => ({
    id: text(json['ID']),
    name: text(json['name']),
    sampleType: text(json['sampleType']),
    sampleUnit: text(json['sampleUnit']),
    periodType: text(json['periodType']),
  }));
}

export async function fetchLabelNames(selector: string, window: Span, cancel: AbortSignal): Promise<readonly string[]> {
  const body = { matchers: [selector], ...closed(window) };
  return strings((await callQuerier('LabelNames', body, cancel))['names']);
}

export interface LabelQuestion {
  readonly name: string;
  readonly selector: string;
  readonly window: Span;
}

export async function fetchLabelValues(question: LabelQuestion, cancel: AbortSignal): Promise<readonly string[]> {
  const { name, selector, window } = question;
  const body = { name, matchers: [selector], ...closed(window) };
  return strings((await callQuerier('LabelValues', body, cancel))['names']);
}

export interface SeriesQuestion extends Subject {
  readonly window: Span;
  readonly stepMs: number;
  readonly groupBy: readonly string[];
}

/** Values per bucket `(t − step, t]` for every t in (from, until]. */
export async function fetchSeries(question: SeriesQuestion, cancel: AbortSignal): Promise<readonly Series[]> {
  const { window, stepMs, groupBy } = question;
  const answer = await callQuerier(
    'SelectSeries',
    {
      profileTypeID: question.profileType,
      labelSelector: question.selector,
      start: window.from + stepMs,
      end: window.until,
      groupBy,
      step: stepMs / 1000,
      limit: MAX_SERIES,
    },
    cancel,
  );
  return objects(answer['series']).map((series) => ({
    labels: toLabels(series['labels']),
    points: objects(series['points']).map((point) => ({
      atMs: number(point['timestamp']),
      value: number(point['value']),
    })),
  }));
}

function toLabels(pairs: unknown): Labels {
  return Object.fromEntries(objects(pairs).map((pair) => [text(pair['name']), text(pair['value'])]));
}

export async function fetchFlame(subject: Subject, window: Span, cancel: AbortSignal): Promise<Flamebearer> {
  return toFlamebearer(await callQuerier('SelectMergeStacktraces', stacktraces(subject, window), cancel));
}

export interface DiffWindows {
  readonly baseline: Span;
  readonly comparison: Span;
}

export async function fetchDiff(subject: Subject, windows: DiffWindows, cancel: AbortSignal): Promise<Flamebearer> {
  const body = { left: stacktraces(subject, windows.baseline), right: stacktraces(subject, windows.comparison) };
  return toFlamebearer(await callQuerier('Diff', body, cancel));
}

function stacktraces(subject: Subject, window: Span): Json {
  return {
    profileTypeID: subject.profileType,
    labelSelector: subject.selector,
    ...closed(window),
    maxNodes: MAX_NODES,
  };
}

function toFlamebearer(answer: Json): Flamebearer {
  const graph = isObject(answer['flamegraph']) ? answer['flamegraph'] : {};
  const levels = objects(graph['levels']).map((level) => list(level['values']).map(number));
  return {
    names: strings(graph['names']),
    levels,
    leftTotal: number(graph['leftTicks']),
    rightTotal: number(graph['rightTicks']),
  };
}
