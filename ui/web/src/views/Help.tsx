// The list of keys and gestures.
import { useEffect, useRef } from 'preact/hooks';
import { helpOpen } from '../state/state';

const LINES: readonly (readonly [string, string])[] = [
  ['↑ ↓ ← →', 'In the flame graph: caller, largest callee, neighbours'],
  ['Home End', 'First and last neighbour'],
  ['Enter, click', 'Zoom to the frame'],
  ['Esc', 'Zoom out to the caller'],
  ['0', 'Show the whole graph'],
  ['+ −, Ctrl + wheel', 'Zoom in and out; drag to move sideways'],
  ['c', 'Copy the name of the frame under the cursor'],
  ['/', 'Search; n and N go to the next and previous match'],
  ['Drag on the timeline', 'Select a window'],
  ['Shift + drag', 'Set the baseline and compare'],
  ['d', 'Compare two windows, or stop comparing'],
  ['← → on a window edge', 'Move it by one bucket; with Shift the whole window; x swaps the two'],
];

export function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  const open = helpOpen.value;
  useEffect(() => {
    if (open) dialog.current?.showModal();
    else dialog.current?.close();
  }, [open]);
  return (
    <dialog ref={dialog} aria-labelledby="help-title" onClose={() => (helpOpen.value = false)}>
      <h2 id="help-title">Keys and gestures</h2>
      <table>
        <tbody>
          {LINES.map(([key, what]) => (
            <tr key={key}>
              <td>
                <kbd>{key}</kbd>
              </td>
              <td>{what}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <button type="button" onClick={() => (helpOpen.value = false)}>
        Close
      </button>
    </dialog>
  );
}
