/**
 * What a person decides about what is sealed in a session, and about what appeared beside it. A chunk of its own: most
 * sessions have neither.
 */
import { sentence } from '../lib/api';
import { protectionOfSession } from '../lib/api-protection';
import { label, plural } from '../lib/format';
import { printable } from '../lib/printable';
import { inProject, whyAsked } from '../lib/protection';
import type { Session } from '../lib/types';
import { sessions } from './sessions.svelte';
import { ui } from './ui.svelte';

/** How many paths a question names. */
const NAMED = 4;

/** The first few texts, and how many more there are. */
function few(texts: readonly string[]): string {
  const more = texts.length - NAMED;
  return [...texts.slice(0, NAMED), ...(more > 0 ? [`and ${more} more`] : [])].join('; ');
}

/** What appeared in the project and runs on this machine, in a sentence for the question before a stop or a delete. */
export async function appearedWords(session: Session): Promise<string> {
  if (!session.appeared) return '';
  const what = `${plural(session.appeared, 'thing')} appeared in the project that can run on your machine`;
  try {
    const { appeared } = await protectionOfSession(session.id);
    const named = few(appeared.map(({ path, when }) => `${printable(path)} ${printable(when)}`));
    if (named) return `${what}: ${named}. Look at it before you use the folder.`;
  } catch {
    // It cannot be named now; the person is told that it is there.
  }
  return `${what}: look at the session’s changes before you use the folder.`;
}

/** What it means to let a frozen session go on. */
function costOf({ protection_changes: changes = [], workspace }: Session): string {
  const named = (isSeal: boolean): string =>
    few([...new Set(changes.filter(({ kind }) => (kind === 'seal') === isSeal).map(({ path }) => inProject(path, workspace)))]);
  const seals = named(true) || (changes.length ? '' : 'What was changed');
  const unsealed = seals
    ? `${seals} has no seal until the session is started anew: meanwhile the container can change it, and your machine may run what it finds there. The session says “basic”, and is still watched.`
    : 'All seals stay on, and the session is still watched.';
  if (!changes.some(({ kind }) => kind === 'operation')) return unsealed;
  return `${unsealed} A rebase, cherry-pick or revert that was put aside is put back: \`git rebase --continue\` on your machine would run its commands, too.`;
}

/** Lets a frozen session go on without the seals that came off, if the person agrees. */
export async function goOn(session: Session): Promise<void> {
  const yes = await ui.confirm(`Let ${label(session)} go on?`, costOf(session), 'Go on');
  if (yes) await decide(session, 'continue', 'does not go on');
}

/** Ends a frozen session. Its container and its conversation are kept. */
export async function stopAndKeep(session: Session): Promise<void> {
  await decide(session, 'stop', 'did not stop');
}

async function decide(session: Session, action: 'continue' | 'stop', failure: string): Promise<void> {
  try {
    await sessions.resolve(session.id, action);
  } catch (error) {
    ui.toast(`${label(session)} ${failure}. ${sentence(error)}`, 'error');
  }
}

/** Whether a session may start although something sealed is not what it was at its last start, as the server says. */
export function accepted(session: Session, why: string): Promise<boolean> {
  return ui.confirm(
    `Resume ${label(session)} all the same?`,
    `${whyAsked(why)} If that was you, it can be sealed as it is now. If not, look at it first: your machine may run it.`,
    'Seal it and resume',
  );
}
