// Moving through the graph by key: callers, callees and siblings, the largest callee first.
import type { FlameColumns } from './columns';
import type { Placement } from './placement';

export type Move = 'caller' | 'callee' | 'previous' | 'next' | 'first' | 'last';

/** The callees of a frame, in the order they are drawn. */
export function calleesOf(columns: FlameColumns, frame: number): number[] {
  const callees: number[] = [];
  for (let i = frame + 1; i < columns.skip[frame]; i = columns.skip[i]) callees.push(i);
  return callees;
}

/** A frame and its siblings that are drawn at all. */
export function siblingsOf(columns: FlameColumns, placement: Placement, frame: number): number[] {
  if (frame === 0) return [0];
  return calleesOf(columns, columns.parent[frame]).filter((i) => placement.width[i] > 0 || i === frame);
}

/** The frame a move leads to; the same frame where there is no way on. */
export function move(columns: FlameColumns, placement: Placement, frame: number, step: Move): number {
  switch (step) {
    case 'caller':
      return columns.parent[frame];
    case 'callee':
      return widest(calleesOf(columns, frame), placement) ?? frame;
    default: {
      const siblings = siblingsOf(columns, placement, frame);
      const at = siblings.indexOf(frame);
      const wanted = { previous: at - 1, next: at + 1, first: 0, last: siblings.length - 1 }[step];
      return siblings[Math.min(Math.max(wanted, 0), siblings.length - 1)];
    }
  }
}

function widest(frames: readonly number[], placement: Placement): number | undefined {
  let best: number | undefined;
  for (const frame of frames) {
    if (placement.width[frame] > (best === undefined ? 0 : placement.width[best])) best = frame;
  }
  return best;
}
