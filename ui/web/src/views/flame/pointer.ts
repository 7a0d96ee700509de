// Mouse, pen and touch over the flame graph: hover, click to zoom, drag to pan, Ctrl + wheel or pinch to zoom.
import { useMemo } from 'preact/hooks';
import type { RefObject } from 'preact';
import { frameAt } from '../../logic/flame/layout';
import { ROW_PX } from '../../paint/flame';
import { focusOn, panGraph, zoomGraph } from '../../state/actions';
import { columns, placement, viewport } from '../../state/graph';
import { pointer } from '../../state/state';

const CLICK_PX = 4;
/** Wheel deltas come in pixels; this many double the zoom. */
const WHEEL_DOUBLES_PX = 200;

interface Held {
  x: number;
  moved: boolean;
}

export function usePointer(host: RefObject<HTMLDivElement | null>) {
  return useMemo(() => {
    const held = new Map<number, Held>();

    const where = (event: MouseEvent) => {
      const box = host.current?.getBoundingClientRect() ?? new DOMRect();
      const y = event.clientY - box.top + (host.current?.scrollTop ?? 0);
      return { x: event.clientX - box.left, row: Math.floor(y / ROW_PX), clientX: event.clientX, clientY: event.clientY };
    };
    const fractionAt = (x: number): number => {
      const { from, until, widthPx } = viewport.peek();
      return from + (x / Math.max(widthPx, 1)) * (until - from);
    };

    const onPointerDown = (event: PointerEvent): void => {
      if (event.button === 0) held.set(event.pointerId, { x: event.clientX, moved: held.size > 0 });
    };
    const onPointerMove = (event: PointerEvent): void => {
      pointer.value = where(event);
      const mine = held.get(event.pointerId);
      if (!mine) return;
      const dx = event.clientX - mine.x;
      if (!mine.moved && Math.abs(dx) < CLICK_PX) return;
      if (held.size === 2) pinch(event, mine);
      else panGraph(-dx);
      mine.moved = true;
      mine.x = event.clientX;
      host.current?.setPointerCapture(event.pointerId);
    };
    const pinch = (event: PointerEvent, mine: Held): void => {
      const other = [...held.entries()].find(([id]) => id !== event.pointerId)?.[1];
      if (!other) return;
      const left = host.current?.getBoundingClientRect().left ?? 0;
      const before = Math.max(Math.abs(mine.x - other.x), 8);
      const after = Math.max(Math.abs(event.clientX - other.x), 8);
      other.moved = true;
      zoomGraph(fractionAt((event.clientX + other.x) / 2 - left), after / before);
    };
    const onPointerUp = (event: PointerEvent): void => {
      const mine = held.get(event.pointerId);
      held.delete(event.pointerId);
      if (!mine || mine.moved) return;
      const frame = frameAt(columns.peek(), placement.peek(), viewport.peek(), where(event));
      if (frame >= 0) focusOn(frame);
    };
    const forget = (event: PointerEvent): void => {
      held.delete(event.pointerId);
      pointer.value = null;
    };
    const onWheel = (event: WheelEvent): void => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoomGraph(fractionAt(where(event).x), 2 ** (-event.deltaY / WHEEL_DOUBLES_PX));
    };
    const handlers = { onPointerDown, onPointerMove, onPointerUp, onPointerCancel: forget, onPointerLeave: forget };
    return { handlers, onWheel };
  }, []);
}
