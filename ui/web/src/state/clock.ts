// Keeps a relative range filling: moves `now` every few seconds while the page is seen, live and not still waiting.
import { refreshInterval, lengthOf } from '../logic/time';
import { anyPending, isLiveRange, range } from './answers';
import { live, now } from './state';

/** Starts the clock; returns how to stop it. */
export function startClock(): () => void {
  let timer = 0;
  const due = (): boolean => !document.hidden && live.peek() && isLiveRange.peek() && !anyPending.peek();
  const schedule = (): void => {
    timer = window.setTimeout(tick, refreshInterval(lengthOf(range.peek())));
  };
  const tick = (): void => {
    if (due()) now.value = Date.now();
    schedule();
  };
  const onSeen = (): void => {
    if (due()) now.value = Date.now();
  };
  document.addEventListener('visibilitychange', onSeen);
  schedule();
  return () => {
    window.clearTimeout(timer);
    document.removeEventListener('visibilitychange', onSeen);
  };
}
