// Product and node, how far its stacks can be trusted, time range, whether the page keeps filling, theme, help.
import { PRESETS } from '../logic/time';
import { chooseRange, cycleTheme } from '../state/actions';
import { anyPending, isLiveRange, range, services } from '../state/answers';
import { helpOpen, live, theme, view } from '../state/state';
import { formatClock, formatWindow, zoneName } from './clock-text';
import { StacksButton } from './Stacks';

export function Header() {
  return (
    <header class="header">
      <div class="brand">
        <svg viewBox="0 0 24 24" aria-hidden="true">
          <path fill="#f2c14e" d="M12 2 21 7 12 12 3 7z" />
          <path fill="#c98a1b" d="M3 7 12 12v10l-9-5z" />
          <path fill="#8a5a0b" d="M21 7 12 12v10l9-5z" />
        </svg>
        <h1>Pyrite</h1>
        <NodeLine />
        <StacksButton />
      </div>
      <span class="grow" />
      <RangePicker />
      <LiveSwitch />
      <button type="button" class="quiet" onClick={cycleTheme} data-testid="theme">
        Theme: {theme}
      </button>
      <button type="button" class="quiet" aria-label="Keyboard help" onClick={() => (helpOpen.value = true)}>
        ?
      </button>
    </header>
  );
}

function NodeLine() {
  const node = services.answer.value.data?.node;
  if (!node || node.name === '') return null;
  return (
    <p data-testid="node">
      {node.name}
      {node.frequencyHz > 0 && ` · ${node.frequencyHz} Hz ${node.event}`}
    </p>
  );
}

function RangePicker() {
  const { from, until } = view.value.range;
  const chosen = 'ago' in from && 'ago' in until && until.ago === 0 ? from.ago : null;
  return (
    <div role="group" aria-label="Time range" class="group">
      {PRESETS.map(({ ago, label, spoken }) => (
        <button type="button" key={label} aria-pressed={chosen === ago} title={spoken} onClick={() => chooseRange(ago)}>
          {label}
        </button>
      ))}
      {chosen === null && (
        <button type="button" aria-pressed={true} title="The range in this link" data-testid="fixed-range">
          {formatWindow(range.value)}
        </button>
      )}
    </div>
  );
}

function LiveSwitch() {
  if (!isLiveRange.value) return <span class="muted">fixed range</span>;
  const on = live.value;
  return (
    <button
      type="button"
      class="quiet"
      title={on ? 'The page refreshes by itself; click to hold it still' : 'Held still; click to follow'}
      onClick={() => (live.value = !on)}
      aria-busy={anyPending.value}
      data-testid="live"
    >
      <span class={on ? 'dot' : 'dot off'} aria-hidden="true" />
      {on ? 'Live' : 'Paused'}
      <span class="muted"> {formatClock(range.value.until)} {zoneName()}</span>
    </button>
  );
}
