// What is said about a frame: in the tooltip, below the graph, to a screen reader, and at the end of a diff's boxes.
import { type Change, frameChange } from '../../logic/flame/diff';
import { formatDelta, formatShare, formatValue } from '../../logic/measure';
import { columns, diffScale, frameName, isDiff, quantity, scales } from '../../state/graph';

export interface FrameFacts {
  readonly name: string;
  readonly rows: readonly (readonly [string, string])[];
}

const CHANGE_WORDS: Readonly<Record<Change, string>> = {
  grew: 'grew',
  shrank: 'shrank',
  same: 'within sampling noise or 5 %',
  new: 'new: not in the baseline',
  gone: 'gone: not in the comparison',
};

function share(value: number, whole: number): string {
  return formatShare(whole > 0 ? value / whole : 0);
}

export function frameFacts(frame: number): FrameFacts {
  const { total, self, base } = columns.value;
  const { comparison, baseline } = scales.value;
  if (!base) {
    const of = (value: number): string => {
      const rate = formatValue(value, { ...comparison, quantity: 'rate' });
      const amount = formatValue(value, { ...comparison, quantity: 'amount' });
      return `${rate} · ${amount} · ${share(value, comparison.whole)}`;
    };
    return { name: frameName(frame), rows: [['Total', of(total[frame])], ['Self', of(self[frame])]] };
  }
  const of = (value: number, scale: typeof comparison): string =>
    `${formatValue(value, { ...scale, quantity: 'rate' })} · ${share(value, scale.whole)}`;
  const change = frameChange(base.total[frame], total[frame], diffScale.value);
  const selfChange = frameChange(base.self[frame], self[frame], diffScale.value);
  return {
    name: frameName(frame),
    rows: [
      ['A baseline', of(base.total[frame], baseline)],
      ['B comparison', of(total[frame], comparison)],
      ['Change', formatDelta(change.delta, comparison)],
      ['Change of self', formatDelta(selfChange.delta, comparison)],
      ['Verdict', CHANGE_WORDS[change.kind]],
    ],
  };
}

/** One line for a screen reader: `name, 1.2 cores, 18 %, ▲ +0.4 cores against the baseline`. */
export function frameLine(frame: number): string {
  const { total } = columns.value;
  const { comparison } = scales.value;
  const parts = [frameName(frame), formatValue(total[frame], { ...comparison, quantity: 'rate' })];
  parts.push(share(total[frame], comparison.whole));
  if (isDiff.value) parts.push(`${frameNote(frame)} against the baseline`);
  return parts.join(', ');
}

/** A diff's delta in text, with `new` or `gone`; '' in a single graph. */
export function frameNote(frame: number): string {
  const { base, total } = columns.value;
  if (!base) return '';
  const change = frameChange(base.total[frame], total[frame], diffScale.value);
  if (change.kind === 'same') return '≈';
  const text = formatDelta(change.delta, { measure: scales.value.comparison.measure, quantity: quantity.value });
  return change.kind === 'new' || change.kind === 'gone' ? `${change.kind} ${text}` : text;
}
