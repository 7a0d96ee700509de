// The shareable state as a query string, version 1. What a link does not say is the default; what it says wrongly is
// dropped, so an old or mangled link opens the page instead of breaking it.
import type { Basis, Panel, Quantity, Sort, SortColumn, Span, View } from '../types/view';
import { readSelector, writeSelector } from './selector';
import { MINUTE, readTimePoint, writeTimePoint } from './time';

const VERSION = '1';

export const CPU_TIME = 'process_cpu:cpu:nanoseconds:cpu:nanoseconds';

export const DEFAULT_VIEW: View = {
  range: { from: { ago: 15 * MINUTE }, until: { ago: 0 } },
  profileType: CPU_TIME,
  matchers: [],
  selected: null,
  baseline: null,
  quantity: 'rate',
  basis: 'both',
  search: '',
  focus: '',
  sort: { column: 'self', descending: true },
  panel: 'both',
};

const QUANTITIES: readonly Quantity[] = ['rate', 'amount', 'share'];
const BASES: readonly Basis[] = ['both', 'baseline', 'comparison'];
const PANELS: readonly Panel[] = ['both', 'graph', 'table'];
const COLUMNS: readonly SortColumn[] = ['name', 'self', 'total', 'delta'];

/** The query string of a view, with a leading `?`, or '' for the default one. */
export function writeView(view: View): string {
  const out = new URLSearchParams();
  const set = (key: string, value: string, fallback: string): void => {
    if (value !== fallback) out.set(key, value);
  };
  set('from', writeTimePoint(view.range.from), writeTimePoint(DEFAULT_VIEW.range.from));
  set('until', writeTimePoint(view.range.until), writeTimePoint(DEFAULT_VIEW.range.until));
  set('type', view.profileType, DEFAULT_VIEW.profileType);
  set('q', writeSelector(view.matchers), '{}');
  set('b', writeSpan(view.selected), '');
  set('a', writeSpan(view.baseline), '');
  set('unit', view.quantity, DEFAULT_VIEW.quantity);
  set('width', view.basis, DEFAULT_VIEW.basis);
  set('search', view.search, '');
  set('focus', view.focus, '');
  set('sort', writeSort(view.sort), writeSort(DEFAULT_VIEW.sort));
  set('panel', view.panel, DEFAULT_VIEW.panel);
  const text = out.toString();
  return text === '' ? '' : `?v=${VERSION}&${text}`;
}

export function readView(query: string): View {
  const params = new URLSearchParams(query);
  const version = params.get('v');
  if (version !== null && version !== VERSION) return DEFAULT_VIEW;
  const text = (key: string): string => params.get(key) ?? '';
  const from = readTimePoint(text('from')) ?? DEFAULT_VIEW.range.from;
  const until = readTimePoint(text('until')) ?? DEFAULT_VIEW.range.until;
  const range = isForward(from, until) ? { from, until } : DEFAULT_VIEW.range;
  const selector = readSelector(text('q'));
  const selected = readSpan(text('b'));
  return {
    range,
    profileType: /^[^:]+(:[^:]*){4,5}$/.test(text('type')) ? text('type') : DEFAULT_VIEW.profileType,
    matchers: 'matchers' in selector ? selector.matchers : [],
    selected,
    baseline: selected ? readSpan(text('a')) : null,
    quantity: oneOf(QUANTITIES, text('unit'), DEFAULT_VIEW.quantity),
    basis: oneOf(BASES, text('width'), DEFAULT_VIEW.basis),
    search: text('search').slice(0, 1000),
    focus: /^[0-9a-f]{16}$/.test(text('focus')) ? text('focus') : '',
    sort: readSort(text('sort')),
    panel: oneOf(PANELS, text('panel'), DEFAULT_VIEW.panel),
  };
}

function isForward(from: View['range']['from'], until: View['range']['until']): boolean {
  if ('at' in from && 'at' in until) return from.at < until.at;
  if ('ago' in from && 'ago' in until) return from.ago > until.ago;
  return 'at' in from;
}

function oneOf<T extends string>(known: readonly T[], text: string, fallback: T): T {
  return known.find((one) => one === text) ?? fallback;
}

function writeSpan(span: Span | null): string {
  return span ? `${span.from}-${span.until}` : '';
}

function readSpan(text: string): Span | null {
  const found = /^(\d{1,15})-(\d{1,15})$/.exec(text);
  if (!found) return null;
  const span = { from: Number(found[1]), until: Number(found[2]) };
  return span.from < span.until ? span : null;
}

function writeSort(sort: Sort): string {
  return `${sort.column}.${sort.descending ? 'desc' : 'asc'}`;
}

function readSort(text: string): Sort {
  const [column, direction] = text.split('.');
  const known = COLUMNS.find((one) => one === column);
  return known ? { column: known, descending: direction !== 'asc' } : DEFAULT_VIEW.sort;
}
