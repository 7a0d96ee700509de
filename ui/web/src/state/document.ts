// What the state says about the document as a whole: its title, its theme, and which palette the canvases draw with.
import { computed, effect, signal } from '@preact/signals';
import { type Palette, readPalette } from '../paint/palette';
import { rootName } from './graph';
import { services } from './answers';
import { theme, view } from './state';

const mediaChanges = signal(0);

/** The colours in force; changes with the theme and with the system's settings. */
export const palette = computed<Palette>(() => {
  void mediaChanges.value;
  applyTheme();
  return readPalette(document.documentElement);
});

function applyTheme(): void {
  const root = document.documentElement;
  if (theme.value === 'auto') delete root.dataset['theme'];
  else root.dataset['theme'] = theme.value;
}

export function followState(): void {
  for (const query of ['(prefers-color-scheme: dark)', '(forced-colors: active)']) {
    matchMedia(query).addEventListener('change', () => {
      mediaChanges.value++;
    });
  }
  effect(applyTheme);
  effect(() => {
    const node = services.answer.value.data?.node.name;
    const what = view.value.baseline ? `${rootName.value}, compared` : rootName.value;
    document.title = [what, node, 'Pyrite'].filter(Boolean).join(' · ');
  });
}
