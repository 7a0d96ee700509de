// Every state without data says what happened and what to do next.
import type { ComponentChildren } from 'preact';
import { explain } from '../api/errors';
import { retry } from '../state/actions';

/** Why an answer is missing or old, and a way to ask again. */
export function ErrorNotice({ error, about }: { readonly error: unknown; readonly about: string }) {
  const { cause, next } = explain(error);
  return (
    <div class="notice bad" role="alert" data-testid="error">
      <p>
        <strong>{about}</strong> {cause} {next}
      </p>
      <button type="button" onClick={retry}>
        Try again
      </button>
    </div>
  );
}

export function Empty({ title, children }: { readonly title: string; readonly children: ComponentChildren }) {
  return (
    <div class="empty" data-testid="empty">
      <strong>{title}</strong>
      <p>{children}</p>
    </div>
  );
}

/** Grey bars where data will be. */
export function Skeleton({ label, widths }: { readonly label: string; readonly widths: readonly number[] }) {
  return (
    <div class="skeleton" role="status" data-testid="loading">
      <span class="hidden">{label}</span>
      {widths.map((width, i) => (
        <i key={i} style={{ width: `${width}%` }} />
      ))}
    </div>
  );
}
