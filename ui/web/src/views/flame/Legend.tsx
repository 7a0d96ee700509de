// What the colours mean.
import { palette } from '../../state/document';
import { isDiff } from '../../state/graph';

export function Legend() {
  if (!isDiff.value) return <span class="legend">coloured by package</span>;
  return (
    <span class="legend" data-testid="legend">
      ▼ less in B
      <span class="scale" aria-hidden="true">
        {palette.value.diff.map(({ fill }, i) => (
          <i key={i} style={{ background: fill }} />
        ))}
      </span>
      ▲ more in B · hatched: new · outlined: gone
    </span>
  );
}
