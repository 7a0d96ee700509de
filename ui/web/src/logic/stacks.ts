// How the completeness of stacks is written: a share that says 100 % only where not one stack is missing.
import type { UnwindScore } from '../types/api';

/** Rounded down, so that nothing incomplete is called complete; null without a stack. */
export function shareComplete(score: Pick<UnwindScore, 'stacks' | 'complete'>): string | null {
  if (score.stacks === 0) return null;
  const tenths = Math.floor((score.complete / score.stacks) * 1000);
  return tenths === 1000 ? '100 %' : `${(tenths / 10).toFixed(1)} %`;
}

/** Below this share something on the node wants a look. */
const GOOD = 0.99;

export function wantsALook({ stacks, complete }: Pick<UnwindScore, 'stacks' | 'complete'>): boolean {
  return complete < GOOD * stacks;
}
