// Search with a regular expression or plain text; says what it found and how much of the graph that is.
import { formatShare } from '../../logic/measure';
import { choose, cursorToMatch } from '../../state/actions';
import { columns, matches, searchError } from '../../state/graph';
import { view } from '../../state/state';
import { SEARCH_ID } from '../ids';

export function SearchBox() {
  const error = searchError.value;
  return (
    <>
      <span class="search">
        <input
          id={SEARCH_ID}
          type="search"
          aria-label="Search functions"
          placeholder="Search functions (regex)"
          spellcheck={false}
          value={view.value.search}
          aria-invalid={error !== null}
          aria-describedby="search-result"
          onInput={(event) => choose({ search: event.currentTarget.value }, 'replace')}
          onKeyDown={onKey}
        />
      </span>
      <span id="search-result" class={error ? 'error' : 'muted'} role="status" data-testid="matched">
        {error ?? found()}
      </span>
    </>
  );
}

function found(): string {
  const result = matches.value;
  if (!result) return '';
  const whole = columns.value.total[0];
  const { base } = columns.value;
  const share = formatShare(whole > 0 ? result.value / whole : 0);
  const count = `${result.functions} ${result.functions === 1 ? 'function' : 'functions'}`;
  if (!base) return `${count}, ${share}`;
  return `${count}, A ${formatShare(base.total[0] > 0 ? result.baseValue / base.total[0] : 0)} B ${share}`;
}

function onKey(event: KeyboardEvent & { readonly currentTarget: HTMLInputElement }): void {
  if (event.key === 'Enter') {
    event.preventDefault();
    cursorToMatch(event.shiftKey ? -1 : 1);
  } else if (event.key === 'Escape') {
    event.preventDefault();
    choose({ search: '' }, 'replace');
    document.querySelector<HTMLElement>('[role="tree"]')?.focus();
  }
}
