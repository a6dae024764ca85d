/** The actions of a person on a session, each with its question and its report. */
import { sentence } from '../lib/api';
import { writeClipboard } from '../lib/clipboard';
import { label, plural, toolName } from '../lib/format';
import { load } from '../lib/load';
import { asksToAccept } from '../lib/protection';
import { href, router } from '../lib/router.svelte';
import type { NewSessionRequest, Session } from '../lib/types';
import { deck } from './deck.svelte';
import { sessions } from './sessions.svelte';
import { ui } from './ui.svelte';

/** In the question before a session ends: what appeared in the project and runs on this machine. */
const whatAppeared = async (session: Session): Promise<string> =>
  session.appeared ? (await load(() => import('./seals'))).appearedWords(session) : '';

/** In the question before a session ends: its tool is in the middle of something. */
function whatIsUnderWay({ status, agent, tool }: Session): string {
  const works = status === 'running' && (agent.state === 'working' || agent.state === 'stuck');
  return works ? `${toolName(tool)} is working: its turn ends unfinished. The conversation is kept.` : '';
}

/** Asks first where the tool works, or something appeared that wants to be looked at. */
export async function stop(session: Session): Promise<void> {
  const words = [whatIsUnderWay(session), await whatAppeared(session)].filter(Boolean).join(' ');
  if (words && !(await ui.confirm(`Stop ${label(session)}?`, words, 'Stop'))) return;
  await report(`${label(session)} did not stop.`, () => sessions.stop(session.id));
}

export async function rename(session: Session, name: string): Promise<void> {
  await report(`${label(session)} was not renamed.`, () => sessions.change(session.id, { name }));
}

export async function pin(session: Session, pinned: boolean): Promise<void> {
  await report(`${label(session)} was not ${pinned ? 'pinned' : 'unpinned'}.`, () => sessions.change(session.id, { pinned }));
}

/** Has a session call nobody, on any device, or call again. */
export async function mute(session: Session, muted: boolean): Promise<void> {
  await report(`${label(session)} was not ${muted ? 'muted' : 'unmuted'}.`, () => sessions.change(session.id, { muted }));
}

/** Asks where something sealed is not what it was at the session's last start. */
export async function resume(session: Session): Promise<void> {
  await report(`${label(session)} did not resume.`, async () => {
    try {
      await sessions.resume(session.id);
    } catch (error) {
      if (!asksToAccept(error)) throw error;
      const { accepted } = await load(() => import('./seals'));
      if (await accepted(session, sentence(error))) await sessions.resume(session.id, true);
    }
  });
}

export async function remove(session: Session): Promise<void> {
  const unsaved = deck.holds(session.id) ? 'The file that is open here has changes that are not saved: they are lost.' : '';
  const { losses, tellKept } = await load(() => import('./unsaved'));
  const { text, lines } = await losses(session);
  const where = session.engine ? ` on ${session.engine}` : '';
  const what =
    session.mode === 'clone'
      ? `the clone in it are deleted. Your own project folder stays`
      : `everything in it outside the project folder are deleted. The project folder${where} stays`;
  const appeared = await whatAppeared(session);
  const words = [`The container ${session.id} and ${what}, and the conversation is saved first where that is possible.`, unsaved, appeared, text];
  const yes = await ui.confirm(`Delete ${label(session)}?`, words.filter(Boolean).join(' '), 'Delete', lines);
  if (!yes) return;
  const open = router.route.place === 'session' && router.route.id === session.id;
  const done = await report(`${label(session)} was not deleted.`, async () => tellKept(session, await sessions.delete(session.id)));
  if (!done) return;
  ui.toast(`Deleted ${label(session)}.`);
  if (open && router.route.place === 'session' && router.route.id === session.id) router.go(href.home);
}

/** Starts a session and goes there; the New session dialog shows how it goes. */
export async function create(request: NewSessionRequest): Promise<Session | null> {
  const session = await sessions.create(request);
  if (session) router.go(href.session(session.id));
  return session;
}

export async function copy(text: string, what = plural(text.length, 'character')): Promise<void> {
  try {
    await writeClipboard(text);
    ui.toast(`Copied ${what}.`);
  } catch {
    ui.toast('The browser did not allow copying.', 'error');
  }
}

async function report(failure: string, action: () => Promise<void>): Promise<boolean> {
  try {
    await action();
    return true;
  } catch (error) {
    ui.toast(`${failure} ${sentence(error)}`, 'error');
    return false;
  }
}
