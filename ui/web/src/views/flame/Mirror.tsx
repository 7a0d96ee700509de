// The part of the tree around the cursor, for screen readers: callers, neighbours and the first callees. The canvas
// itself is invisible to them, and a tree of every frame would be unusable.
import { callersOf } from '../../logic/flame/layout';
import { calleesOf, siblingsOf } from '../../logic/flame/walk';
import { columns, cursorFrame, placement } from '../../state/graph';
import { frameLine } from './describe';

const NEIGHBOURS = 10;
const CALLEES = 50;
const CALLERS = 50;

export function treeItemId(frame: number): string {
  return `frame-${frame}`;
}

export function Mirror() {
  const cursor = cursorFrame.value;
  const tree = columns.value;
  const siblings = siblingsOf(tree, placement.value, cursor);
  const at = siblings.indexOf(cursor);
  const near = siblings.slice(Math.max(0, at - NEIGHBOURS), at + NEIGHBOURS + 1);
  const callees = calleesOf(tree, cursor);
  const frames = [...callersOf(tree, cursor).slice(-CALLERS), ...near, ...callees.slice(0, CALLEES)];
  const seen = new Set<number>();
  return (
    <div class="hidden" role="none">
      {frames
        .filter((frame) => !seen.has(frame) && seen.add(frame))
        .map((frame) => (
          <div
            key={frame}
            id={treeItemId(frame)}
            role="treeitem"
            aria-level={tree.level[frame] + 1}
            aria-selected={frame === cursor}
            aria-expanded={tree.skip[frame] > frame + 1 ? true : undefined}
          >
            {frameLine(frame)}
          </div>
        ))}
    </div>
  );
}
