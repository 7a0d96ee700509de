// The shell: header, filters, service list, workbench, and the keys that work everywhere in it.
import { useEffect, useRef } from 'preact/hooks';
import { cursorToMatch, resetZoom, toggleCompare, zoomOut } from '../state/actions';
import { announcement, helpOpen } from '../state/state';
import { Filters } from './Filters';
import { Changes } from './flame/Changes';
import { Header } from './Header';
import { Help } from './Help';
import { SEARCH_ID } from './ids';
import { Services } from './Services';
import { StacksDialog } from './Stacks';
import { TimelinePanel } from './TimelinePanel';
import { Workbench } from './Workbench';

export function App() {
  const shell = useRef<HTMLDivElement>(null);
  // Keys are heard by the shell, not the window, so it takes the focus that would otherwise rest on the body.
  useEffect(() => shell.current?.focus({ preventScroll: true }), []);
  return (
    <div class="shell" ref={shell} tabIndex={-1} onKeyDown={onKey}>
      <a class="skip" href="#main">
        Skip to the flame graph
      </a>
      <Header />
      <Filters />
      <div class="body">
        <Services />
        <main class="main" id="main" tabIndex={-1}>
          <TimelinePanel />
          <Changes />
          <Workbench />
        </main>
      </div>
      <p class="hidden" role="status" aria-live="polite" data-testid="announcement">
        {announcement}
      </p>
      <Help />
      <StacksDialog />
    </div>
  );
}

const KEYS: Readonly<Record<string, () => void>> = {
  '/': () => document.getElementById(SEARCH_ID)?.focus(),
  '?': () => {
    helpOpen.value = true;
  },
  '0': resetZoom,
  n: () => cursorToMatch(1),
  N: () => cursorToMatch(-1),
  d: toggleCompare,
  Escape: zoomOut,
};

function onKey(event: KeyboardEvent): void {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.closest('input, select, textarea, dialog') !== null);
}
