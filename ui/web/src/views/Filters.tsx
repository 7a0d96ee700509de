// What is looked at: matchers as chips, a field that reads more of them, and the profile type.
import { computed, effect, signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { fetchLabelNames, fetchLabelValues } from '../api/pyrite';
import { readSelector, valueOf, writeMatcher } from '../logic/selector';
import { choose } from '../state/actions';
import { profileTypes, range, services, subject } from '../state/answers';
import { view } from '../state/state';

const MAX_SUGGESTIONS = 200;

export function Filters() {
  return (
    <section class="filters" aria-label="Filters">
      {view.value.matchers.map((matcher, i) => {
        const text = writeMatcher(matcher);
        return (
          <span class="chip" key={text} data-testid="matcher">
            <span title={text}>{text}</span>
            <button
              type="button"
              class="quiet"
              aria-label={`Remove ${text}`}
              onClick={() => choose({ matchers: view.peek().matchers.filter((_, at) => at !== i), focus: '' })}
            >
              ×
            </button>
          </span>
        );
      })}
      <MatcherField />
      <TypePicker />
    </section>
  );
}

const typed = signal('');
const suggestions = signal<readonly string[]>([]);
/** The label whose values are suggested; '' while its name is still being typed. */
const typedLabel = computed(() => /^\s*\{?\s*([a-zA-Z_]\w*)\s*(=~|!~|!=|=)/.exec(typed.value)?.[1] ?? '');
const wanted = signal(false);

/** Asks for suggestions only once the field has been entered. */
function followTyping(): () => void {
  return effect(() => {
    const label = typedLabel.value;
    const { selector } = subject.value;
    if (!wanted.value) return undefined;
    const cancel = new AbortController();
    const window = range.peek();
    const found = label
      ? fetchLabelValues({ name: label, selector, window }, cancel.signal).then((values) =>
          values.map((value) => writeMatcher({ name: label, op: '=', value })),
        )
      : fetchLabelNames(selector, window, cancel.signal).then((names) =>
          names.filter((name) => !name.startsWith('__')).map((name) => `${name}=`),
        );
    found.then(
      (list) => {
        suggestions.value = list.slice(0, MAX_SUGGESTIONS);
      },
      () => {
        // Without suggestions the field still works; a server that is away is reported where its data is missing.
        suggestions.value = [];
      },
    );
    return () => cancel.abort();
  });
}

function MatcherField() {
  const input = useRef<HTMLInputElement>(null);
  const error = useRef(signal('')).current;
  useEffect(followTyping, []);
  const submit = (event: Event): void => {
    event.preventDefault();
    const read = readSelector(typed.value);
    if ('error' in read) {
      error.value = `At character ${read.error.at + 1}: ${read.error.message}. Example: namespace="shop", pod=~"web.*"`;
      input.current?.setSelectionRange(read.error.at, typed.value.length);
      return;
    }
    const known = new Set(view.peek().matchers.map(writeMatcher));
    const added = read.matchers.filter((matcher) => !known.has(writeMatcher(matcher)));
    typed.value = '';
    error.value = '';
    if (added.length > 0) choose({ matchers: [...view.peek().matchers, ...added], focus: '' });
  };
  return (
    <>
      <form onSubmit={submit}>
        <input
          ref={input}
          aria-label="Add a label filter"
          placeholder='Add filter: image=~"web.*"'
          list="matchers"
          autocomplete="off"
          spellcheck={false}
          value={typed}
          aria-invalid={error.value !== ''}
          aria-describedby="matcher-error"
          onFocus={() => (wanted.value = true)}
          onInput={(event) => {
            typed.value = event.currentTarget.value;
            error.value = '';
          }}
        />
        <datalist id="matchers">
          {suggestions.value.map((text) => (
            <option key={text} value={text} />
          ))}
        </datalist>
      </form>
      <span id="matcher-error" class="error" role="alert">
        {error}
      </span>
    </>
  );
}

/** The profile types of the chosen service, or of all; the chosen one is always among them. */
const offered = computed(() => {
  const name = valueOf(view.value.matchers, 'service_name');
  const service = services.answer.value.data?.services.find((one) => one.name === name);
  const all = profileTypes.answer.value.data?.map((type) => type.id) ?? [];
  const ids = service && service.profileTypes.length > 0 ? service.profileTypes : all;
  return [...new Set([...ids, view.value.profileType])].toSorted();
});

function TypePicker() {
  return (
    <select
      aria-label="Profile type"
      value={view.value.profileType}
      onChange={(event) => choose({ profileType: event.currentTarget.value, focus: '' })}
    >
      {offered.value.map((id) => (
        <option key={id} value={id}>
          {typeName(id)}
        </option>
      ))}
    </select>
  );
}

/** `process_cpu:cpu:nanoseconds:cpu:nanoseconds` as `CPU time`, others as `memory · alloc_space (bytes)`. */
function typeName(id: string): string {
  const [name = id, sample = '', unit = ''] = id.split(':');
  if (name === 'process_cpu' && sample === 'cpu') return 'CPU time';
  if (name === 'process_cpu' && sample === 'samples') return 'CPU samples';
  if (name === 'off_cpu' && sample === 'off_cpu') return 'Waiting (off the CPU)';
  if (name === 'wall' && sample === 'wall') return 'Wall time (running and waiting)';
  return `${name} · ${sample} (${unit})`;
}
