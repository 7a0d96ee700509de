// All state of the page that anything may change. Nothing else in the page is writable; what follows from these is
// computed in answers.ts and graph.ts, and actions.ts holds the only functions that write here.
import { signal } from '@preact/signals';
import { readView } from '../logic/url';
import type { View } from '../types/view';

/** What a link carries. Written by `choose`, which also writes the URL. */
export const view = signal<View>(readView(location.search));

/** The instant that relative ranges are resolved against, unix ms; the refresh clock moves it. */
export const now = signal(Date.now());

/** Whether a relative range moves on by itself. */
export const live = signal(true);

/** Raised to ask every question again after an error. */
export const retries = signal(0);

/** The frame the keyboard is on, as a stack id, so that it survives new data; '' is the root. */
export const cursorStack = signal('');

/** The visible part of the graph when zoomed by wheel or pinch, as fractions of the whole; null shows all of the focus. */
export const zoom = signal<{ readonly from: number; readonly until: number } | null>(null);

/** Where the pointer is over the graph: for the tooltip. */
export interface PointerOverGraph {
  /** CSS pixels from the canvas' left edge. */
  readonly x: number;
  /** Row of the graph, counted from the root. */
  readonly row: number;
  /** CSS pixels in the browser window. */
  readonly clientX: number;
  readonly clientY: number;
}

export const pointer = signal<PointerOverGraph | null>(null);

/** Width of the canvas, CSS pixels. */
export const canvasWidth = signal(0);

/** Whether the keyboard is on the graph; only then is its cursor drawn. */
export const graphFocused = signal(false);

/** What is typed above the service list. */
export const serviceFilter = signal('');

/** Rows of the function table that are shown. */
export const tableRows = signal(100);

export type Theme = 'auto' | 'light' | 'dark';

export const theme = signal<Theme>('auto');

export const helpOpen = signal(false);

/** Whether the dialog on the completeness of stacks is open. */
export const stacksOpen = signal(false);

/** What the polite live region says. */
export const announcement = signal('');
