// Label selectors, PromQL style: `{service_name="web", pod=~"a.*"}`. Reading and writing are exact inverses.
import type { Matcher, MatchOp } from '../types/view';

export interface SelectorError {
  readonly message: string;
  /** Index in the text where reading stopped. */
  readonly at: number;
}

export type SelectorResult = { readonly matchers: readonly Matcher[] } | { readonly error: SelectorError };

const PLAIN_NAME = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

function quote(text: string): string {
  return `"${text.replace(/[\\"]/g, '\\$&').replace(/\n/g, '\\n')}"`;
}

export function writeMatcher(matcher: Matcher): string {
  const name = PLAIN_NAME.test(matcher.name) ? matcher.name : quote(matcher.name);
  return `${name}${matcher.op}${quote(matcher.value)}`;
}

export function writeSelector(matchers: readonly Matcher[]): string {
  return `{${matchers.map(writeMatcher).join(', ')}}`;
}

/** Reads a selector with or without its braces. Regular expressions are checked by the server, which runs them. */
export function readSelector(text: string): SelectorResult {
  const reader = new Reader(text);
  try {
    return { matchers: reader.selector() };
  } catch (error) {
    if (error instanceof ReadError) return { error: { message: error.message, at: reader.at } };
    throw error;
  }
}

class ReadError extends Error {}

class Reader {
  at = 0;

  constructor(private readonly text: string) {}

  selector(): Matcher[] {
    const matchers: Matcher[] = [];
    const braced = this.take('{');
    while (!this.atEnd(braced)) {
      if (matchers.length > 0 && !this.take(',')) throw new ReadError('expected a comma between matchers');
      if (this.atEnd(braced)) break;
      matchers.push({ name: this.name(), op: this.op(), value: this.quoted('value') });
    }
    if (braced && !this.take('}')) throw new ReadError('expected a closing brace');
    this.space();
    if (this.at < this.text.length) throw new ReadError('unexpected text after the selector');
    return matchers;
  }

  private space(): void {
    while (/\s/.test(this.text[this.at] ?? '')) this.at++;
  }

  private take(token: string): boolean {
    this.space();
    const found = this.text.startsWith(token, this.at);
    if (found) this.at += token.length;
    return found;
  }

  private atEnd(braced: boolean): boolean {
    this.space();
    return this.at >= this.text.length || (braced && this.text[this.at] === '}');
  }

  private name(): string {
    this.space();
    if (this.text[this.at] === '"') return this.quoted('label name');
    const found = /^[a-zA-Z_][a-zA-Z0-9_]*/.exec(this.text.slice(this.at));
    if (!found) throw new ReadError('expected a label name');
    this.at += found[0].length;
    return found[0];
  }

  private op(): MatchOp {
    for (const op of ['=~', '!~', '!=', '='] as const) {
      if (this.take(op)) return op;
    }
    throw new ReadError('expected =, !=, =~ or !~');
  }

  private quoted(what: string): string {
    if (!this.take('"')) throw new ReadError(`expected a ${what} in double quotes`);
    let value = '';
    for (; this.at < this.text.length; this.at++) {
      const char = this.text[this.at];
      if (char === '"') {
        this.at++;
        return value;
      }
      if (char === '\\') {
        this.at++;
        const escaped = this.text[this.at] ?? '';
        value += escaped === 'n' ? '\n' : escaped;
      } else {
        value += char;
      }
    }
    throw new ReadError(`the ${what} has no closing quote`);
  }
}

/** The one value a label must equal, or null. */
export function valueOf(matchers: readonly Matcher[], name: string): string | null {
  return matchers.find((matcher) => matcher.name === name && matcher.op === '=')?.value ?? null;
}

/** The matchers with `name` pinned to `value`, or free when `value` is null. */
export function withValue(matchers: readonly Matcher[], name: string, value: string | null): Matcher[] {
  const others = matchers.filter((matcher) => matcher.name !== name);
  return value === null ? others : [{ name, op: '=', value }, ...others];
}
