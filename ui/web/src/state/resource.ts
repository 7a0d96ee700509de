// A question whose answer follows the state: asked again when the question changes, the outrun request cancelled, the
// last good answer kept while the next is under way.
import { effect, type ReadonlySignal, signal } from '@preact/signals';

export interface Answer<T> {
  /** The last good answer, of whichever question. */
  readonly data: T | null;
  /** What `data` is about. */
  readonly about: string;
  readonly pending: boolean;
  /** Why the latest question has no answer. */
  readonly error: unknown;
}

export interface Question<Q> {
  /** Equal texts mean the same subject; a mere tick of the clock does not change it, so data is not dimmed for it. */
  readonly about: string;
  readonly ask: Q;
}

export interface Resource<T> {
  readonly answer: ReadonlySignal<Answer<T>>;
  /** True when what is shown is not (yet) what was asked for. */
  readonly isStale: (about: string) => boolean;
}

/** `retries` is a counter; raising it asks again. A null question means: nothing to ask. */
export function resource<Q, T>(
  question: ReadonlySignal<Question<Q> | null>,
  retries: ReadonlySignal<number>,
  fetch: (ask: Q, cancel: AbortSignal) => Promise<T>,
): Resource<T> {
  const answer = signal<Answer<T>>({ data: null, about: '', pending: false, error: null });
  let asked = '';
  let running: AbortController | null = null;

  const settle = (mine: AbortController, next: (last: Answer<T>) => Answer<T>): void => {
    if (running === mine) answer.value = next(answer.peek());
  };

  effect(() => {
    const current = question.value;
    const key = `${retries.value} ${JSON.stringify(current)}`;
    if (key === asked) return;
    asked = key;
    running?.abort();
    const mine = new AbortController();
    running = mine;
    if (current === null) {
      answer.value = { data: null, about: '', pending: false, error: null };
      return;
    }
    answer.value = { ...answer.peek(), pending: true };
    fetch(current.ask, mine.signal).then(
      (data) => settle(mine, () => ({ data, about: current.about, pending: false, error: null })),
      (error: unknown) => settle(mine, (last) => ({ ...last, pending: false, error })),
    );
  });
  return { answer, isStale: (about) => answer.value.about !== about };
}
