// The canvas in its scroller, and its gestures and keys. The scroller is the tree a screen reader walks (Mirror.tsx).
// Painting follows the signals directly: a pointer that moves repaints, but renders nothing.
import { computed, useComputed, useSignal, useSignalEffect } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { nameColours } from '../../logic/colour';
import { DIFF_STEPS } from '../../logic/flame/diff';
import { type DisplayList, layout } from '../../logic/flame/layout';
import { type FlamePicture, paintFlame, ROW_PX, type Sheet } from '../../paint/flame';
import { FRAME_COLOURS, PLAIN_COLOURS } from '../../paint/palette';
import { palette } from '../../state/document';
import * as graph from '../../state/graph';
import { canvasWidth, graphFocused, pointer, zoom } from '../../state/state';
import { frameNote } from './describe';
import { onGraphKey } from './keys';
import { Mirror, treeItemId } from './Mirror';
import { usePointer } from './pointer';

const colours = computed(() => nameColours(graph.columns.value.names, FRAME_COLOURS, PLAIN_COLOURS));

export function FlameGraph() {
  const host = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const sheet = useSignal<Sheet>({ widthPx: 0, heightPx: 0, scrollTopPx: 0 });
  const list = useComputed(() => visibleFrames(sheet.value));
  const cursor = graph.cursorFrame.value;
  const gestures = usePointer(host);

  useEffect(() => {
    const element = host.current;
    if (!element) return undefined;
    const measure = (): void => {
      canvasWidth.value = element.clientWidth;
      sheet.value = { widthPx: element.clientWidth, heightPx: element.clientHeight, scrollTopPx: element.scrollTop };
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
  useSignalEffect(() => {
    if (canvas.current && sheet.value.widthPx > 0) paintFlame(canvas.current, pictureOf(list.value), sheet.value);
  });
  useEffect(() => reveal(host.current, graph.columns.peek().level[cursor]), [cursor]);

  return (
    <div
      ref={host}
      class={zoom.value ? 'flame zoomed' : 'flame'}
      role="tree"
      tabIndex={0}
      aria-label={summary.value}
      aria-roledescription="flame graph"
      aria-activedescendant={treeItemId(cursor)}
      data-testid="flame"
      data-boxes={list.value.count}
      style={{ '--depth': graph.columns.value.depth }}
      onKeyDown={onGraphKey}
      onFocus={() => (graphFocused.value = true)}
      onBlur={() => (graphFocused.value = false)}
      {...gestures.handlers}
    >
      <canvas ref={canvas} aria-hidden="true" style={{ height: `${sheet.value.heightPx}px` }} />
      <div
        aria-hidden="true"
        style={{ height: `${Math.max(0, graph.columns.value.depth * ROW_PX - sheet.value.heightPx)}px` }}
      />
      <Mirror />
    </div>
  );
}

const summary = computed(() => {
  const top = graph.functions.value
    .toSorted((a, b) => b.self - a.self)
    .slice(0, 3)
    .map((row) => row.name);
  return `Flame graph of ${graph.rootName.value}, ${graph.columns.value.count} frames. Most own time: ${top.join(', ')}.`;
});

function visibleFrames(sheet: Sheet): DisplayList {
  const firstRow = Math.floor(sheet.scrollTopPx / ROW_PX);
  const rows = Math.ceil(sheet.heightPx / ROW_PX) + 1;
  const view = { ...graph.viewport.value, widthPx: Math.max(sheet.widthPx, 1), firstRow, rows };
  const weight = graph.isDiff.value ? graph.changes.value : graph.placement.value.width;
  return layout(graph.columns.value, graph.placement.value, view, weight);
}

function pictureOf(list: DisplayList): FlamePicture {
  const columns = graph.columns.value;
  const steps = graph.steps.value;
  const colour = palette.value;
  const nameColour = colours.value;
  const { base } = columns;
  return {
    columns,
    list,
    palette: colour,
    paintOf: base
      ? (frame) => colour.diff[steps[frame] + DIFF_STEPS]
      : (frame) => (frame === 0 ? colour.root : colour.frames[nameColour[columns.name[frame]]]),
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
