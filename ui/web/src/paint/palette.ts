// Colours for the canvases, read from the style sheet's tokens, so that light, dark and forced colours live in one file.
import { inkOn, STATE_FRAMES } from '../logic/colour';
import { DIFF_STEPS } from '../logic/flame/diff';

/** Colours for packages, and after them those for names that tell no package. */
export const FRAME_COLOURS = 16;
export const PLAIN_COLOURS = 4;

/** A fill and the text colour that can be read on it. */
export interface Paint {
  readonly fill: string;
  readonly ink: string;
}

export interface Palette {
  readonly frames: readonly Paint[];
  /** By step + 4. */
  readonly diff: readonly Paint[];
  readonly root: Paint;
  readonly background: string;
  readonly edge: string;
  readonly cursor: string;
  readonly match: string;
  readonly text: string;
  readonly grid: string;
  /** Timeline layers, the biggest first; the last is for all others. */
  readonly layers: readonly string[];
  /** The timeline of one series, over which the windows' blue and orange stand out. */
  readonly lone: string;
  readonly mono: string;
  /** Fills mean nothing then: frames need an edge to be told apart. */
  readonly forced: boolean;
}

export const LAYER_COLOURS = 6;

export function readPalette(element: Element): Palette {
  const style = getComputedStyle(element);
  const token = (name: string): string => style.getPropertyValue(`--${name}`).trim();
  const forced = matchMedia('(forced-colors: active)').matches;
  const system: Paint = { fill: 'Canvas', ink: 'CanvasText' };
  const paint = (name: string): Paint => (forced ? system : { fill: token(name), ink: inkOn(token(name)) });
  const many = (count: number, name: (i: number) => string): Paint[] =>
    Array.from({ length: count }, (_, i) => paint(name(i)));
  return {
    frames: [
      ...many(FRAME_COLOURS + PLAIN_COLOURS, (i) => `frame-${i}`),
      ...STATE_FRAMES.map((frame) => paint(`frame-${frame.slice(1, -1)}`)),
    ],
    diff: many(DIFF_STEPS * 2 + 1, (i) => `diff-${i}`),
    root: paint('frame-root'),
    background: forced ? 'Canvas' : token('surface'),
    edge: forced ? 'CanvasText' : token('frame-edge'),
    cursor: forced ? 'Highlight' : token('cursor'),
    match: forced ? 'Highlight' : token('match'),
    text: forced ? 'CanvasText' : token('text-muted'),
    grid: forced ? 'GrayText' : token('line'),
    layers: Array.from({ length: LAYER_COLOURS + 1 }, (_, i) => token(`layer-${i}`)),
    lone: forced ? 'GrayText' : token('layer-lone'),
    mono: token('mono'),
    forced,
  };
}
