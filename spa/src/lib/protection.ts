/** What the page makes of a session's protection. */
import { ApiError } from './api';
import { printable } from './printable';
import type { SealedChange, Session } from './types';

/** A seal came off: the container is frozen until a person decides. Once it is stopped, the next start asks. */
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

/** What became of something sealed, and whose doing it was. */
export function whatChanged({ what, by, words }: SealedChange): string {
  return printable(`${WHAT[what]} ${BY[by]}${words && ` (${words})`}`);
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
