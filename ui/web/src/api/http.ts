// One seam to the network: same-origin JSON, a time limit, cancellation, and every failure as an ApiError.
import { ApiError, type Failure } from './errors';

export type Json = Readonly<Record<string, unknown>>;

const TIMEOUT_MS = 30_000;

/** Calls `querier.v1.QuerierService/<method>` with Connect JSON. */
export function callQuerier(method: string, body: Json, cancel: AbortSignal): Promise<Json> {
  return requestJson(
    `/querier.v1.QuerierService/${method}`,
    { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) },
    cancel,
  );
}

export function getJson(path: string, cancel: AbortSignal): Promise<Json> {
  return requestJson(path, {}, cancel);
}

async function requestJson(path: string, init: RequestInit, cancel: AbortSignal): Promise<Json> {
  const late = AbortSignal.timeout(TIMEOUT_MS);
  try {
    const response = await fetch(path, { ...init, signal: AbortSignal.any([cancel, late]) });
    const text = await response.text();
    if (!response.ok) throw new ApiError(failureOf(response.status), messageIn(text));
    return parse(text);
  } catch (error) {
    if (error instanceof ApiError || cancel.aborted) throw error;
    if (late.aborted) throw new ApiError('too-slow', `no answer within ${TIMEOUT_MS / 1000} s`);
    throw new ApiError('unreachable', '');
  }
}

function failureOf(status: number): Failure {
  if (status === 401) return 'unnamed';
  if (status === 404 || status === 405 || status === 501) return 'missing';
  if (status === 504 || status === 408) return 'too-slow';
  return status < 500 ? 'refused' : 'failed';
}

/** The message of a Connect error body `{code, message}`, else nothing: an HTML error page helps nobody here. */
function messageIn(body: string): string {
  try {
    const { message } = JSON.parse(body) as { message?: unknown };
    return typeof message === 'string' ? message.replace(/\.$/, '') : '';
  } catch {
    return '';
  }
}

function parse(text: string): Json {
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return value;
  } catch {
    // Falls through: text that is not JSON and JSON that is no object are the same defect.
  }
  throw new ApiError('malformed', 'not a JSON object');
}

export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Proto3 JSON leaves out empty lists. */
export function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

export function objects(value: unknown): readonly Json[] {
  return list(value).filter(isObject);
}

export function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** Proto3 JSON writes int64 as a string and leaves out zero. */
export function number(value: unknown): number {
  const read = typeof value === 'string' ? Number(value) : (value ?? 0);
  if (typeof read !== 'number' || !Number.isFinite(read)) throw new ApiError('malformed', 'a number is missing');
  return read;
}

export function strings(value: unknown): string[] {
  return list(value).filter((one) => typeof one === 'string');
}
