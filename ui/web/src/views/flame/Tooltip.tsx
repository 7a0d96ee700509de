// What the pointer is over. It follows the pointer and stays on screen.
import { useLayoutEffect, useRef } from 'preact/hooks';
import { hoverFrame } from '../../state/graph';
import { pointer } from '../../state/state';
import { frameFacts } from './describe';

const GAP_PX = 14;

export function Tooltip() {
  const element = useRef<HTMLDivElement>(null);
  const at = pointer.value;
  useLayoutEffect(() => {
    const box = element.current;
    if (!box || !at) return;
    const fitsBelow = at.clientY + GAP_PX + box.offsetHeight < window.innerHeight;
    const left = Math.min(at.clientX + GAP_PX, window.innerWidth - box.offsetWidth - 8);
    box.style.left = `${Math.max(8, left)}px`;
    box.style.top = `${fitsBelow ? at.clientY + GAP_PX : Math.max(8, at.clientY - GAP_PX - box.offsetHeight)}px`;
  });
  if (!at || hoverFrame.value < 0) return null;
  const { name, rows } = frameFacts(hoverFrame.value);
  return (
    <div class="tooltip" ref={element} aria-hidden="true" data-testid="tooltip">
      <p>{name}</p>
      <dl>
        {rows.map(([label, value]) => (
          <>
            <dt>{label}</dt>
            <dd>{value}</dd>
          </>
        ))}
      </dl>
    </div>
  );
}
