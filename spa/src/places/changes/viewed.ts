/** Which files of a session a person has ticked as viewed, in this browser. A file that changes later is not viewed any more. */
import type { ChangedFile } from '../../lib/types';
import { put, viewed } from '../../state/written';

const MOST_SESSIONS = 20;
const MOST_FILES = 1_000;

export const isViewed = (session: string, { path, version }: ChangedFile): boolean => viewed.current[session]?.[path] === version;

/** The first path behind one, in the order of the tree and then from its begin, whose file is not viewed. */
export function nextUnviewed(session: string, order: readonly string[], path: string, files: readonly ChangedFile[]): string | undefined {
  const left = new Set(files.filter((file) => !isViewed(session, file)).map((file) => file.path));
  const at = order.indexOf(path);
  return [...order.slice(at + 1), ...order.slice(0, at)].find((one) => left.has(one));
}

export function tick(session: string, { path, version }: ChangedFile, ticked: boolean): void {
  const others = Object.entries(viewed.current[session] ?? {}).filter(([other]) => other !== path);
  const ticks: Record<string, string> = Object.fromEntries(ticked ? [...others.slice(1 - MOST_FILES), [path, version]] : others);
  put(viewed, session, ticks, MOST_SESSIONS);
}
