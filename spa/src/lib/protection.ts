/** What the page makes of a session's protection. */
import type { SealChange, Session } from './types';

/** A seal came off: the container is frozen until a person decides. Once it is stopped, the next start asks. */
export function isFrozen({ protection, status, paused }: Session): boolean {
  return protection === 'broken' && (status === 'running' || (status === 'stopped' && paused));
}

/** When the last seal came off; empty if none did. */
export function brokenSince({ protection_changes: changes }: Session): string {
  return changes?.at(-1)?.at ?? '';
}

/** What the answer to a start says that something sealed has become since the last one; empty if that is not why it failed. */
export function changesIn(details: unknown): readonly SealChange[] {
  if (typeof details !== 'object' || details === null || !('changes' in details)) return [];
  return Array.isArray(details.changes) ? (details.changes as SealChange[]) : [];
}
