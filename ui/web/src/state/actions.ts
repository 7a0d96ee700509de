// Everything a person can do, as functions. The only writers of state.ts, and of the URL.
import { batch } from '@preact/signals';
import { type Move, move } from '../logic/flame/walk';
import { neighbourMatch } from '../logic/flame/search';
import { stackId } from '../logic/flame/stack-id';
import { panBy, zoomAbout } from '../logic/flame/layout';
import { withValue } from '../logic/selector';
import { absoluteRange } from '../logic/time';
import { DEFAULT_VIEW, readView, writeView } from '../logic/url';
import { previousSpan, quietest, shiftSpan, suggestPair } from '../logic/windows';
import type { Sort, SortColumn, Span, View } from '../types/view';
import { range, stepMs, timeline, timelinePoints } from './answers';
import { columns, cursorFrame, focusFrame, matches, placement, viewport } from './graph';
import * as state from './state';

/** Changes the view. A choice can be taken back with Back; a drag under way, or typing, cannot. */
export function choose(patch: Partial<View>, history: 'push' | 'replace' = 'push'): void {
  const next = { ...state.view.peek(), ...patch };
  const url = location.pathname + writeView(next);
  if (url !== location.pathname + location.search) window.history[`${history}State`](null, '', url);
  state.view.value = next;
}

/** Takes the view from the URL again, after Back or Forward. */
export function restore(): void {
  batch(() => {
    state.zoom.value = null;
    state.view.value = readView(location.search);
  });
}

export function chooseService(name: string | null): void {
  batch(() => {
    state.zoom.value = null;
    choose({ matchers: withValue(state.view.peek().matchers, 'service_name', name), focus: '' });
  });
}

export function chooseRange(agoMs: number): void {
  batch(() => {
    state.now.value = Date.now();
    choose({ range: { from: { ago: agoMs }, until: { ago: 0 } }, selected: null, baseline: null });
  });
}

/** Makes the selected window the range. */
export function rangeToSelection(): void {
  const { selected } = state.view.peek();
  if (selected) choose({ range: absoluteRange(selected), selected: null, baseline: null });
}

export function clearWindows(): void {
  choose({ selected: null, baseline: null });
}

/** Sets the selected window; in a diff that is the comparison. */
export function selectWindow(selected: Span, history: 'push' | 'replace' = 'push'): void {
  choose({ selected }, history);
}

/** What a fresh comparison is for. */
const BY_CHANGE: Sort = { column: 'delta', descending: true };

/** Sets the baseline; the comparison is then the selected window, else what the range still has beside it. */
export function selectBaseline(baseline: Span, history: 'push' | 'replace' = 'push'): void {
  const { selected, baseline: current } = state.view.peek();
  const sort = current ? {} : { sort: BY_CHANGE };
  choose({ baseline, selected: selected ?? beside(baseline, range.peek()), ...sort }, history);
}

/** The longer part of the range on one side of a window. */
function beside(span: Span, whole: Span): Span {
  const after = { from: span.until, until: whole.until };
  const before = { from: whole.from, until: span.from };
  return after.until - after.from >= before.until - before.from ? after : before;
}

/** Turns comparing on, with windows worth comparing, or off. Says so when there is nothing to compare yet. */
export function toggleCompare(): void {
  const { selected, baseline } = state.view.peek();
  if (baseline) {
    choose({ baseline: null, sort: DEFAULT_VIEW.sort });
    return;
  }
  const points = timelinePoints.peek();
  const step = timeline.peek()?.stepMs ?? stepMs.peek();
  if (selected) {
    const found = quietest(points, step, selected) ?? previousSpan(selected, range.peek());
    if (found) choose({ baseline: found, sort: BY_CHANGE });
    else announce('There is no other time in this range to compare with. Choose a longer range.');
    return;
  }
  const pair = suggestPair(points, step);
  if (pair) choose({ baseline: pair.baseline, selected: pair.comparison, sort: BY_CHANGE });
  else announce('Too little has been recorded to compare two windows. Wait a minute or choose a longer range.');
}

export type Suggestion = 'previous' | 'quietest' | 'hour' | 'day' | 'swap';

export function suggestBaseline(how: Suggestion): void {
  const { selected, baseline } = state.view.peek();
  if (!selected) return;
  const found = {
    previous: () => previousSpan(selected, { from: 0, until: selected.until }),
    quietest: () => quietest(timelinePoints.peek(), timeline.peek()?.stepMs ?? stepMs.peek(), selected),
    hour: () => shiftSpan(selected, -3_600_000),
    day: () => shiftSpan(selected, -86_400_000),
    swap: () => selected,
  }[how]();
  if (!found) announce('No such window has samples in this range.');
  else if (how === 'swap') choose({ baseline: found, selected: baseline ?? found });
  else choose({ baseline: found });
}

export function focusOn(frame: number): void {
  batch(() => {
    state.zoom.value = null;
    state.cursorStack.value = stackId(columns.peek(), frame);
    choose({ focus: stackId(columns.peek(), frame) });
  });
}

export function resetZoom(): void {
  batch(() => {
    state.zoom.value = null;
    choose({ focus: '' });
  });
}

/** Zooms out to the caller of the focus. */
export function zoomOut(): void {
  if (state.zoom.peek()) state.zoom.value = null;
  else if (focusFrame.peek() !== 0) focusOn(columns.peek().parent[focusFrame.peek()]);
}

export function zoomGraph(fraction: number, factor: number): void {
  const { from, until } = zoomAbout(placement.peek(), viewport.peek(), fraction, factor);
  state.zoom.value = { from, until };
}

export function panGraph(px: number): void {
  const { from, until } = panBy(placement.peek(), viewport.peek(), px);
  state.zoom.value = { from, until };
}

export function moveCursor(step: Move): void {
  setCursor(move(columns.peek(), placement.peek(), cursorFrame.peek(), step));
}

export function cursorToMatch(direction: 1 | -1): void {
  const found = matches.peek();
  const next = found ? neighbourMatch(found, cursorFrame.peek(), direction) : -1;
  if (next >= 0) setCursor(next);
}

/** Puts the cursor on a frame, and zooms out where the frame lies outside the focus. */
export function setCursor(frame: number): void {
  batch(() => {
    state.cursorStack.value = stackId(columns.peek(), frame);
    const focus = focusFrame.peek();
    const inFocus = frame >= focus && frame < columns.peek().skip[focus];
    if (!inFocus && frame !== 0 && !isCaller(frame, focus)) resetZoom();
  });
}

function isCaller(frame: number, of: number): boolean {
  return frame <= of && columns.peek().skip[frame] > of;
}

export function sortBy(column: SortColumn): void {
  const { sort } = state.view.peek();
  const descending = sort.column === column ? !sort.descending : column !== 'name';
  choose({ sort: { column, descending } });
}

export function retry(): void {
  batch(() => {
    state.now.value = Date.now();
    state.retries.value++;
  });
}

export function announce(message: string): void {
  state.announcement.value = message;
}

const THEME_KEY = 'pyrite.theme';

export function loadTheme(): void {
  const stored = readStored();
  if (stored === 'light' || stored === 'dark') state.theme.value = stored;
}

export function cycleTheme(): void {
  const order: readonly state.Theme[] = ['auto', 'light', 'dark'];
  const next = order[(order.indexOf(state.theme.peek()) + 1) % order.length];
  state.theme.value = next;
  try {
    localStorage.setItem(THEME_KEY, next);
  } catch {
    // Storage is switched off: the choice then lasts as long as the page.
  }
}

function readStored(): string | null {
  try {
    return localStorage.getItem(THEME_KEY);
  } catch {
    return null;
  }
}
