// The choices of the flame graph's toolbar.
import type { Basis, Quantity } from '../../types/view';

/** A diff has no amounts, see state/graph.ts. */
export function choosable(diff: boolean): readonly Quantity[] {
  return diff ? ['rate', 'share'] : ['rate', 'amount', 'share'];
}

export const BASES: readonly { readonly basis: Basis; readonly label: string }[] = [
  { basis: 'both', label: 'A and B' },
  { basis: 'comparison', label: 'B only' },
  { basis: 'baseline', label: 'A only' },
];
