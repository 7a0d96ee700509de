// Keys of the flame graph. Those of the whole page (/, ?, 0, n, Esc) are heard by the shell.
import type { Move } from '../../logic/flame/walk';
import { announce, focusOn, moveCursor, zoomGraph } from '../../state/actions';
import { cursorFrame, frameName, placement } from '../../state/graph';

const MOVES: Readonly<Record<string, Move>> = {
  ArrowUp: 'caller',
  ArrowDown: 'callee',
  ArrowLeft: 'previous',
  ArrowRight: 'next',
  Home: 'first',
  End: 'last',
};

const ACTIONS: Readonly<Record<string, () => void>> = {
  Enter: () => focusOn(cursorFrame.peek()),
  '+': () => zoomAtCursor(1.5),
  '=': () => zoomAtCursor(1.5),
  '-': () => zoomAtCursor(1 / 1.5),
  c: () => {
    const name = frameName(cursorFrame.peek());
    navigator.clipboard?.writeText(name).then(
      () => announce(`Copied ${name}`),
      () => announce('The browser did not allow copying.'),
    );
  },
};

export function onGraphKey(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = MOVES[event.key];
  const action = step ? () => moveCursor(step) : ACTIONS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function zoomAtCursor(factor: number): void {
  const { start, width } = placement.peek();
  const frame = cursorFrame.peek();
  zoomGraph(start[frame] + width[frame] / 2, factor);
}
