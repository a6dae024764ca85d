/** What the page makes of a session's protection. */
import { ApiError } from './api';
import { printable } from './printable';
import type { SealedChange, Session } from './types';

/** The container is frozen until a person decides on what was changed. Once it is stopped, the next start asks. */
export function isFrozen({ protection, status, paused }: Session): boolean {
  return protection === 'broken' && (status === 'running' || (status === 'stopped' && paused));
}

/** When the last seal came off; empty if none did. */
export function brokenSince({ protection_changes: changes }: Session): string {
  return changes?.at(-1)?.at ?? '';
}

/** A path of this machine as it is called in its project. */
export function inProject(path: string, workspace: string): string {
  const below = `${workspace.replace(/\/$/, '')}/`;
  return printable(path.startsWith(below) ? path.slice(below.length) : path);
}

const WHAT: Record<SealedChange['what'], string> = {
  replaced: 'was replaced by another file',
  changed: 'was changed',
  gone: 'was taken away',
};

const BY: Record<SealedChange['by'], string> = {
  container: 'most likely by a program in the container',
  host: 'by a program on this machine',
  unknown: 'by the container or a program on this machine',
};

const HEADLINES: Record<SealedChange['kind'], string> = {
  seal: 'A seal came off',
  index: 'Git’s index names what git must not touch',
  link: 'A link appeared in a Git folder',
  repository: 'A submodule or worktree that came since would have git run something',
  operation: 'An operation in progress would have git run or write something',
};

/** What happened, for the head of a notice. */
export function headline(changes: readonly SealedChange[]): string {
  const [kind, ...others] = new Set(changes.map((change) => change.kind));
  if (!kind) return HEADLINES.seal;
  return others.length ? 'Something was changed that git on your machine would obey' : HEADLINES[kind];
}

/** What became of something sealed, and whose doing it was; of what was put aside, what git would have done. */
export function whatChanged({ what, by, words, kind }: SealedChange): string {
  if (kind !== 'seal') return printable(words);
  return printable(`${WHAT[what]} ${BY[by]}${words && ` (${words})`}`);
}

/** Whether something sealed is again what it was. What has no seal is put aside instead, as its words say. */
export function afterwards({ kind, restored }: SealedChange): string {
  if (kind !== 'seal') return '';
  return restored ? 'put back as it was' : 'not put back';
}

/** The changes that a notice at a session tells: those of its run, and those for which no session starts in its folder. */
export function changesToTell({ protection_changes: changes, protection_waits: waits }: Session): readonly SealedChange[] {
  return changes?.length ? changes : (waits ?? []);
}

/** Whether a session has something to tell of what git on this machine would have obeyed. */
export function tellsChanges(session: Session): boolean {
  return session.protection === 'broken' || Boolean(session.protection_waits?.length);
}

/** The field of a request that says so. */
const ACCEPT = 'accept_changes';

/** Whether a start was refused since what was sealed at the last one is something else now, which a person may accept. */
export function asksToAccept(error: unknown): boolean {
  return error instanceof ApiError && error.status === 409 && error.message.includes(ACCEPT);
}

/** Such a refusal without its advice for the command line and the API: the page has a button. */
export function whyAsked(message: string): string {
  const end = message.lastIndexOf('; ', message.indexOf(ACCEPT));
  return end > 0 ? `${message.slice(0, end)}.` : message;
}
