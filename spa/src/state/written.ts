/**
 * What a person has written for a session and not sent or saved, by the session's id. An id comes again, since it is made of
 * the folder and the slot: what was written for a session that was deleted must not appear in the next one.
 */
import { isRecord, isTextRecord } from '../lib/kinds';
import { Persisted } from '../lib/persisted.svelte';
import type { Session } from '../lib/types';

/** A comment that is being written. */
export interface Form {
  path: string;
  /** From 1; 0 for the file as a whole. */
  line: number;
  end_line: number;
  text: string;
  /** The comment that it changes; none for a new one. */
  comment_id?: string;
}

/** The text of a file that is not saved. */
export interface KeptText {
  path: string;
  text: string;
  /** The version that it was made from. */
  etag: string;
}

type Written<Value> = Record<string, Value>;

const MOST_BIRTHS = 300;

const isForms = (value: unknown): value is Written<readonly Form[]> => isRecord(value) && Object.values(value).every(Array.isArray);
const isText = (value: unknown): value is KeptText =>
  isRecord(value) && [value['path'], value['text'], value['etag']].every((one) => typeof one === 'string');
const isTextRecords = (value: unknown): value is Written<Written<string>> => isRecord(value) && Object.values(value).every(isTextRecord);
const isFiles = (value: unknown): value is Written<KeptText> => isRecord(value) && Object.values(value).every(isText);

export const drafts = new Persisted<Written<string>>('drafts', {}, isTextRecord);
/** What prompts of the queue are being changed to, by the session's id and the prompt's. */
export const edits = new Persisted<Written<Written<string>>>('queue-edits', {}, isTextRecords);
export const forms = new Persisted<Written<readonly Form[]>>('comments-written', {}, isForms);
/** The messages of commits, by the session's id. */
export const messages = new Persisted<Written<string>>('commit-messages', {}, isTextRecord);
/** The files that a person has ticked as viewed, each with its version then. */
export const viewed = new Persisted<Written<Written<string>>>('files-viewed', {}, isTextRecords);
export const files = new Persisted<Written<KeptText>>('files-unsaved', {}, isFiles);
/** When the session of each id was created. */
const births = new Persisted<Written<string>>('session-births', {}, isTextRecord);

/** The session that has an id now: the key of what is told of it. */
export const currentSession = (id: string): string => `${id} ${births.current[id] ?? ''}`;

/** Puts a session's value last, and lets those go that were written longest ago; undefined takes it out. */
export function put<Value>(store: Persisted<Written<Value>>, id: string, value: Value | undefined, most: number): void {
  const others = Object.entries(store.current).filter(([other]) => other !== id);
  store.current = Object.fromEntries(value === undefined ? others : [...others.slice(1 - most), [id, value]]);
}

function forget<Value>(store: Persisted<Written<Value>>, id: string): void {
  if (id in store.current) put(store, id, undefined, 0);
}

/** Takes notice of the sessions that there are: what was written for another one of the same id is forgotten. */
export function takeBirths(found: readonly Session[]): void {
  const known = births.current;
  const fresh = found.filter(({ id, created_at }) => created_at && known[id] !== created_at);
  if (fresh.length === 0) return;
  for (const { id } of fresh) {
    if (!(id in known)) continue;
    forget(drafts, id);
    forget(edits, id);
    forget(forms, id);
    forget(files, id);
    forget(messages, id);
    forget(viewed, id);
  }
  const ids = new Set(fresh.map(({ id }) => id));
  const all = [...Object.entries(known).filter(([id]) => !ids.has(id)), ...fresh.map(({ id, created_at }) => [id, created_at] as const)];
  births.current = Object.fromEntries(all.slice(-MOST_BIRTHS));
}
