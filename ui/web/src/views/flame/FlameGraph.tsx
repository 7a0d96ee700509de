// The canvas in its scroller, and its gestures and keys. The scroller is the tree a screen reader walks (Mirror.tsx).
import { useComputed } from '@preact/signals';
import { useEffect, useRef, useState } from 'preact/hooks';
import { nameColours } from '../../logic/colour';
import { layout } from '../../logic/flame/layout';
import { DIFF_STEPS } from '../../logic/flame/diff';
import { type FlamePicture, paintFlame, ROW_PX } from '../../paint/flame';
import { FRAME_COLOURS, PLAIN_COLOURS } from '../../paint/palette';
import { palette } from '../../state/document';
import * as graph from '../../state/graph';
import { canvasWidth, graphFocused, pointer, zoom } from '../../state/state';
import { frameNote } from './describe';
import { onGraphKey } from './keys';
import { Mirror, treeItemId } from './Mirror';
import { usePointer } from './pointer';

export function FlameGraph() {
  const host = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [sheet, setSheet] = useState({ widthPx: 0, heightPx: 0, scrollTopPx: 0 });
  const colours = useComputed(() => nameColours(graph.columns.value.names, FRAME_COLOURS, PLAIN_COLOURS));
  const cursor = graph.cursorFrame.value;
  const gestures = usePointer(host);

  useEffect(() => {
    const element = host.current;
    if (!element) return undefined;
    const measure = (): void => {
      canvasWidth.value = element.clientWidth;
      setSheet({ widthPx: element.clientWidth, heightPx: element.clientHeight, scrollTopPx: element.scrollTop });
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    element.addEventListener('scroll', measure, { passive: true });
    element.addEventListener('wheel', gestures.onWheel, { passive: false });
    return () => {
      observer.disconnect();
      element.removeEventListener('scroll', measure);
      element.removeEventListener('wheel', gestures.onWheel);
      pointer.value = null;
    };
  }, []);

  const picture = currentPicture(colours.value, sheet);
  useEffect(() => {
    if (canvas.current && sheet.widthPx > 0) paintFlame(canvas.current, picture, sheet);
  });
  useEffect(() => reveal(host.current, graph.columns.peek().level[cursor]), [cursor]);

  return (
    <div
      ref={host}
      class={zoom.value ? 'flame zoomed' : 'flame'}
      role="tree"
      tabIndex={0}
      aria-label={summary()}
      aria-roledescription="flame graph"
      aria-activedescendant={treeItemId(cursor)}
      data-testid="flame"
      data-boxes={picture.list.count}
      style={{ '--depth': graph.columns.value.depth }}
      onKeyDown={onGraphKey}
      onFocus={() => (graphFocused.value = true)}
      onBlur={() => (graphFocused.value = false)}
      {...gestures.handlers}
    >
      <canvas ref={canvas} aria-hidden="true" style={{ height: `${sheet.heightPx}px` }} />
      <div aria-hidden="true" style={{ height: `${Math.max(0, graph.columns.value.depth * ROW_PX - sheet.heightPx)}px` }} />
      <Mirror />
    </div>
  );
}

function summary(): string {
  const top = graph.functions.value
    .toSorted((a, b) => b.self - a.self)
    .slice(0, 3)
    .map((row) => row.name);
  return `Flame graph of ${graph.rootName.value}, ${graph.columns.value.count} frames. Most own time: ${top.join(', ')}.`;
}

interface SheetSize {
  readonly widthPx: number;
  readonly heightPx: number;
  readonly scrollTopPx: number;
}

function currentPicture(colours: Uint8Array, sheet: SheetSize): FlamePicture {
  const columns = graph.columns.value;
  const steps = graph.steps.value;
  const colour = palette.value;
  const { base } = columns;
  const firstRow = Math.floor(sheet.scrollTopPx / ROW_PX);
  const rows = Math.ceil(sheet.heightPx / ROW_PX) + 1;
  return {
    columns,
    list: layout(
      columns,
      graph.placement.value,
      { ...graph.viewport.value, widthPx: Math.max(sheet.widthPx, 1), firstRow, rows },
      base ? graph.changes.value : graph.placement.value.width,
    ),
    palette: colour,
    paintOf: base
      ? (frame) => colour.diff[steps[frame] + DIFF_STEPS]
      : (frame) => (frame === 0 ? colour.root : colour.frames[colours[columns.name[frame]]]),
    labelOf: graph.frameName,
    noteOf: base ? frameNote : () => '',
    isNew: (frame) => base !== null && base.total[frame] === 0 && steps[frame] !== 0,
    isGone: (frame) => base !== null && columns.total[frame] === 0 && steps[frame] !== 0,
    matches: graph.matches.value?.names ?? null,
    focus: graph.focusFrame.value,
    cursor: graphFocused.value ? graph.cursorFrame.value : -1,
    hover: graph.hoverFrame.value,
  };
}

/** Scrolls a row into view when the cursor has left it. */
function reveal(host: HTMLElement | null, row: number): void {
  if (!host) return;
  const top = row * ROW_PX;
  if (top < host.scrollTop) host.scrollTop = Math.max(0, top - ROW_PX);
  else if (top + ROW_PX > host.scrollTop + host.clientHeight) host.scrollTop = top + 2 * ROW_PX - host.clientHeight;
}
