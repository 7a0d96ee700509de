// Draws a display list on a canvas that is as tall as its window, not as the graph: rows scroll past it. Boxes are
// filled colour by colour, and labels use a fixed-width font, so one measurement serves them all.
import type { FlameColumns } from '../logic/flame/columns';
import type { DisplayList } from '../logic/flame/layout';
import type { Paint, Palette } from './palette';

export const ROW_PX = 20;

export interface FlamePicture {
  readonly columns: FlameColumns;
  readonly list: DisplayList;
  readonly palette: Palette;
  /** Palette entry of a frame. */
  readonly paintOf: (frame: number) => Paint;
  readonly labelOf: (frame: number) => string;
  /** Short text at the right end of a wide box, such as a diff's delta; '' for none. */
  readonly noteOf: (frame: number) => string;
  readonly isNew: (frame: number) => boolean;
  readonly isGone: (frame: number) => boolean;
  /** 1 per matching function name; null when nothing is searched. */
  readonly matches: Uint8Array | null;
  readonly focus: number;
  readonly cursor: number;
  readonly hover: number;
}

export interface Sheet {
  readonly widthPx: number;
  readonly heightPx: number;
  readonly scrollTopPx: number;
}

const LABEL_FROM_PX = 28;
const FADED = 0.4;

export function paintFlame(canvas: HTMLCanvasElement, picture: FlamePicture, sheet: Sheet): void {
  const context = fit(canvas, sheet);
  if (!context) return;
  context.fillStyle = picture.palette.background;
  context.fillRect(0, 0, sheet.widthPx, sheet.heightPx);
  paintBoxes(context, picture, sheet);
  paintLabels(context, picture, sheet);
  paintOutlines(context, picture, sheet);
}

/** Sizes the canvas in device pixels and returns a context that draws in CSS pixels. */
function fit(canvas: HTMLCanvasElement, sheet: Sheet): CanvasRenderingContext2D | null {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(sheet.widthPx * ratio), Math.round(sheet.heightPx * ratio)];
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext('2d', { alpha: false });
  context?.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

function top(picture: FlamePicture, sheet: Sheet, at: number): number {
  return picture.columns.level[picture.list.frame[at]] * ROW_PX - sheet.scrollTopPx;
}

/** Boxes leave a pixel free to their right while they can afford it. */
function drawnWidth(width: number): number {
  return width > 3 ? width - 1 : width;
}

function isFaded(picture: FlamePicture, frame: number): boolean {
  const { columns, matches } = picture;
  if (matches && frame !== 0) return matches[columns.name[frame]] === 0;
  return columns.level[frame] < columns.level[picture.focus];
}

function paintBoxes(context: CanvasRenderingContext2D, picture: FlamePicture, sheet: Sheet): void {
  const { list } = picture;
  const groups = new Map<Paint, { plain: number[]; faded: number[] }>();
  for (let at = 0; at < list.count; at++) {
    const frame = list.frame[at];
    const paint = picture.paintOf(frame);
    let group = groups.get(paint);
    if (!group) groups.set(paint, (group = { plain: [], faded: [] }));
    group[isFaded(picture, frame) ? 'faded' : 'plain'].push(at);
  }
  for (const [paint, { plain, faded }] of groups) {
    context.fillStyle = paint.fill;
    fillAll(context, picture, sheet, plain);
    context.globalAlpha = FADED;
    fillAll(context, picture, sheet, faded);
    context.globalAlpha = 1;
  }
}

function fillAll(context: CanvasRenderingContext2D, picture: FlamePicture, sheet: Sheet, boxes: readonly number[]): void {
  const { list, palette } = picture;
  for (const at of boxes) {
    const y = top(picture, sheet, at);
    const width = drawnWidth(list.width[at]);
    context.fillRect(list.x[at], y, width, ROW_PX - 1);
    if (width < 4) continue;
    const frame = list.frame[at];
    if (palette.forced || picture.isGone(frame)) edge(context, palette.edge, list.x[at], y, width);
    if (picture.isNew(frame)) hatch(context, palette.edge, list.x[at], y, width);
  }
}

function edge(context: CanvasRenderingContext2D, colour: string, x: number, y: number, width: number): void {
  context.strokeStyle = colour;
  context.lineWidth = 1;
  context.strokeRect(x + 0.5, y + 0.5, width - 1, ROW_PX - 2);
}

/** Slanted lines along the lower edge mark new code without colour, and leave the label readable. */
function hatch(context: CanvasRenderingContext2D, colour: string, x: number, y: number, width: number): void {
  context.strokeStyle = colour;
  context.lineWidth = 1;
  context.beginPath();
  const right = Math.min(x + width, x + 4000);
  for (let left = Math.max(x, -8); left + 4 < right; left += 6) {
    context.moveTo(left, y + ROW_PX - 1);
    context.lineTo(left + 4, y + ROW_PX - 5);
  }
  context.stroke();
}

function paintLabels(context: CanvasRenderingContext2D, picture: FlamePicture, sheet: Sheet): void {
  const { list } = picture;
  context.font = `12px ${picture.palette.mono}`;
  context.textBaseline = 'middle';
  const charPx = context.measureText('mmmmmmmmmm').width / 10;
  for (let at = 0; at < list.count; at++) {
    // A box that begins left of the sheet is labelled where it comes into view.
    const x = Math.max(list.x[at], 0);
    const width = Math.min(list.x[at] + list.width[at], sheet.widthPx) - x;
    if (width < LABEL_FROM_PX) continue;
    const frame = list.frame[at];
    const faded = isFaded(picture, frame);
    context.fillStyle = faded ? picture.palette.text : picture.paintOf(frame).ink;
    const y = top(picture, sheet, at) + ROW_PX / 2;
    const room = Math.floor((width - 9) / charPx);
    const label = picture.labelOf(frame);
    const note = picture.noteOf(frame);
    const withNote = note !== '' && room > note.length + Math.min(label.length, 16) + 2;
    context.fillText(shorten(label, withNote ? room - note.length - 2 : room), x + 4, y);
    if (withNote) context.fillText(note, x + width - 5 - note.length * charPx, y);
  }
}

function shorten(label: string, room: number): string {
  if (label.length <= room) return label;
  return room < 2 ? '' : `${label.slice(0, room - 1)}…`;
}

function paintOutlines(context: CanvasRenderingContext2D, picture: FlamePicture, sheet: Sheet): void {
  const { list, columns, palette, matches } = picture;
  for (let at = 0; at < list.count; at++) {
    const frame = list.frame[at];
    const isMatch = matches !== null && frame !== 0 && matches[columns.name[frame]] === 1;
    const isCursor = frame === picture.cursor;
    if (!isMatch && !isCursor && frame !== picture.hover) continue;
    const y = top(picture, sheet, at);
    const width = Math.max(drawnWidth(list.width[at]), 2);
    context.strokeStyle = isMatch && !isCursor && frame !== picture.hover ? palette.match : palette.cursor;
    context.lineWidth = isCursor ? 2 : 1.5;
    if (width < 4) {
      context.fillStyle = context.strokeStyle;
      context.fillRect(list.x[at], y, width, ROW_PX - 1);
    } else {
      context.strokeRect(list.x[at] + 1, y + 1, width - 2, ROW_PX - 3);
    }
  }
}
