/** What only a session's container has, for the questions before it is deleted or goes back. A chunk of its own. */
import { api, sentence } from '../lib/api';
import { label, plural } from '../lib/format';
import { pause } from '../lib/load';
import { printable } from '../lib/printable';
import type { Session, Unsaved } from '../lib/types';
import { ui } from './ui.svelte';

/** Longer than most containers take to answer, shorter than a person waits for a question. */
const PATIENCE_MS = 10_000;
const AGAIN_MS = 300;
const SHOWN_NAMES = 5;
const SLOW = 'its container has not answered yet';

/** Words below a question: a sentence, and a line for each kind of work. */
export interface Losses {
  text: string;
  lines: readonly string[];
}

type Kind = Exclude<keyof Unsaved, 'total' | 'unknown' | 'pending' | 'conversation'>;

/** The conversation is not among them: it is saved first, each time. */
const KINDS: readonly (readonly [Kind, string, string?])[] = [
  ['commits', 'commit'],
  ['uncommitted', 'uncommitted file'],
  ['stashes', 'stash', 'stashes'],
  ['nested', 'repository within', 'repositories within'],
  ['outside', 'file outside the project'],
  ['unreadable', 'file that only root can read', 'files that only root can read'],
];

/** Asks the server, and tells what it knows. What it does not know is never shown as nothing. */
export async function losses(session: Session): Promise<Losses> {
  try {
    const found = await ask(session.id);
    return found ? lossesOf(found, session.mode === 'clone') : unknown(SLOW, []);
  } catch (error) {
    return unknown(sentence(error), []);
  }
}

/** The server answers soon, without what the container has not told yet. A later question gets that. */
async function ask(id: string): Promise<Unsaved | null> {
  const late = pause(PATIENCE_MS).then(() => null);
  let known: Unsaved | null = null;
  for (;;) {
    const found = await Promise.race([api.unsaved(id), late]);
    if (!found) return known;
    known = found;
    if (!found.pending) return known;
    await pause(AGAIN_MS);
  }
}

function lossesOf(found: Unsaved, isClone: boolean): Losses {
  const lines = KINDS.flatMap(([kind, one, several]) => {
    const { count, names } = found[kind];
    return count ? [line(plural(count, one, several ?? (kind === 'outside' ? 'files outside the project' : undefined)), names, count)] : [];
  });
  if (found.unknown) return unknown(found.unknown, lines);
  if (lines.length) return { text: 'Only the container has this. It is copied beside the conversation first:', lines };
  return { text: isClone ? 'All work in its clone is in the project already.' : '', lines };
}

function unknown(why: string, lines: readonly string[]): Losses {
  const text = `What only the container has cannot be known now: ${why.replace(/\.$/, '')}. Clincus looks first, and copies it beside the conversation.`;
  return { text: lines.length ? `${text} Known so far:` : text, lines };
}

function line(what: string, names: readonly string[], count: number): string {
  const shown = names.slice(0, SHOWN_NAMES).map(printable);
  const more = count - shown.length;
  return shown.length ? `${what}: ${shown.join(', ')}${more ? ` and ${String(more)} more` : ''}` : what;
}

/** Says where the server has copied what only the container had. */
export function tellKept(session: Session, paths: readonly string[]): void {
  if (paths.length) ui.toast(`What only ${label(session)} had is kept: ${paths.map(printable).join(', ')}`, 'lasting');
}
