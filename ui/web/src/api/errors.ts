// Why a request failed, in a form the page can explain: a cause and what to do next.

export type Failure = 'unreachable' | 'refused' | 'failed' | 'malformed' | 'missing' | 'too-slow' | 'unnamed';

export class ApiError extends Error {
  constructor(
    readonly failure: Failure,
    message: string,
  ) {
    super(message);
  }
}

export interface Explanation {
  readonly cause: string;
  readonly next: string;
}

const NEXT: Readonly<Record<Failure, string>> = {
  unreachable: 'Check that Pyrite is still running on this address; the page tries again by itself.',
  refused: 'Change the selector, the profile type or the range.',
  failed: "Try again; Pyrite's log says more.",
  malformed: 'The page and the server may be of different versions: reload the page.',
  missing: 'This server does not offer it; update Pyrite.',
  'too-slow': 'Choose a shorter range or a narrower selector, then try again.',
  unnamed: 'Open the page by way of the proxy that names your tenant to Pyrite in the header X-Scope-OrgID.',
};

const CAUSE: Readonly<Record<Failure, string>> = {
  unreachable: 'Pyrite does not answer',
  refused: 'Pyrite refused the question',
  failed: 'Pyrite could not answer',
  malformed: 'The answer could not be read',
  missing: 'Pyrite does not know this question',
  'too-slow': 'The answer took too long',
  unnamed: 'Pyrite was not told whose data to show',
};

export function explain(error: unknown): Explanation {
  if (error instanceof ApiError) {
    const detail = error.message === '' ? '' : `: ${error.message}`;
    return { cause: `${CAUSE[error.failure]}${detail}.`, next: NEXT[error.failure] };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { cause: `${CAUSE.malformed}: ${message}.`, next: NEXT.malformed };
}
