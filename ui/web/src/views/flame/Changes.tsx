// Above a diff: how much changed in all, and the functions whose own work changed most. Each leads to its frames.
import { biggestChanges, type FunctionRow, selfDelta } from '../../logic/flame/functions';
import { frameChange } from '../../logic/flame/diff';
import { formatDelta } from '../../logic/measure';
import { choose } from '../../state/actions';
import { columns, diffScale, functions, isDiff, isEmpty, scales, weights } from '../../state/graph';
import { exactly } from '../../logic/flame/search';

const COUNT = 4;

export function Changes() {
  const { base, total } = columns.value;
  if (!isDiff.value || !base || isEmpty.value) return null;
  const scale = scales.value.comparison;
  const all = total[0] * weights.value.comparison - base.total[0] * weights.value.baseline;
  const certain = (row: FunctionRow): boolean => frameChange(row.baseSelf, row.self, diffScale.value).step !== 0;
  const { grew, shrank } = biggestChanges(functions.value, weights.value, COUNT);
  const shown = [...grew, ...shrank].filter(certain);
  return (
    <section class="panel" aria-label="Biggest changes" data-testid="changes">
      <div class="bar">
        {scale.quantity === 'rate' && (
          <span>
            In all <strong>{formatDelta(all, scale)}</strong>
          </span>
        )}
        <span class="muted">
          {shown.length > 0 ? 'own work changed most in' : 'no function changed by more than sampling noise'}
        </span>
      </div>
      {shown.length > 0 && (
        <div class="changes">
          {shown.map((row) => {
            const delta = selfDelta(row, weights.value);
            return (
              <button
                type="button"
                key={row.index}
                class={delta > 0 ? 'grew' : 'shrank'}
                title={row.name}
                onClick={() => choose({ search: exactly(row.name) }, 'push')}
              >
                <b>{formatDelta(delta, scale)}</b> {row.name}
              </button>
            );
          })}
        </div>
      )}
    </section>
  );
}
