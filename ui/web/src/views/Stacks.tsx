// How many of the node's stacks are complete, and in a dialog why the others are not.
import { useEffect, useRef } from 'preact/hooks';
import { formatShare } from '../logic/measure';
import { shareComplete, wantsALook } from '../logic/stacks';
import { unwind } from '../state/answers';
import { stacksOpen } from '../state/state';
import type { UnwindScore } from '../types/api';

export function StacksButton() {
  const score = unwind.answer.value.data;
  const share = score && shareComplete(score);
  if (!score || share === null) return null;
  return (
    <button
      type="button"
      class={wantsALook(score) ? 'quiet stacks warn' : 'quiet stacks'}
      title="Stacks of the last minute that reach the thread's outermost frame"
      onClick={() => (stacksOpen.value = true)}
      data-testid="stacks"
    >
      {share} of stacks complete
    </button>
  );
}

export function StacksDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const open = stacksOpen.value;
  useEffect(() => {
    if (open) dialog.current?.showModal();
    else dialog.current?.close();
  }, [open]);
  const score = unwind.answer.value.data;
  return (
    <dialog ref={dialog} aria-labelledby="stacks-title" onClose={() => (stacksOpen.value = false)} data-testid="stacks-dialog">
      <h2 id="stacks-title">Stacks of the last minute</h2>
      {score && <Score score={score} />}
      <button type="button" onClick={() => (stacksOpen.value = false)}>
        Close
      </button>
    </dialog>
  );
}

function Score({ score }: { readonly score: UnwindScore }) {
  const { stacks, complete, guessed, reasons, executables, processes, offCpu } = score;
  return (
    <>
      <p>
        {complete} of {stacks} reach the thread's outermost frame. {formatShare(stacks === 0 ? 0 : guessed / stacks)} have frames found
        by the frame pointer for want of unwind information.
      </p>
      {offCpu && (
        <p>
          Since the start threads left a CPU {offCpu.captured + offCpu.shed} times. {offCpu.captured} were captured and stand for those that
          were shed; {offCpu.lost} were lost.
        </p>
      )}
      <Rows
        title="Why the others stop"
        rows={reasons.map((one) => [one.reason, `${one.stacks}: ${one.help}`] as const)}
      />
      <Rows
        title="Executables they stop at"
        rows={executables.map((one) => [one.name, `${one.stopped} of ${one.passed + one.stopped}: ${one.reason}`] as const)}
      />
      <Rows
        title="Processes"
        rows={processes.map((one) => [`${one.name} (${one.tgid})`, `${one.stacks - one.complete} of ${one.stacks}: ${one.reason}`] as const)}
      />
    </>
  );
}

function Rows({ title, rows }: { readonly title: string; readonly rows: readonly (readonly [string, string])[] }) {
  if (rows.length === 0) return null;
  return (
    <table>
      <caption>{title}</caption>
      <tbody>
        {rows.map(([name, what]) => (
          <tr key={name}>
            <td>{name}</td>
            <td>{what}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
