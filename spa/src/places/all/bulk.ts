/** What a person does to several sessions at once. Each is asked for by itself, and what failed is named. */
import { api, sentence } from '../../lib/api';
import { label, plural } from '../../lib/format';
import { Once } from '../../lib/once';
import type { Session } from '../../lib/types';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { losses, tellKept } from '../../state/unsaved';

const once = new Once();

const isWorking = ({ status, agent }: Session): boolean => status === 'running' && (agent.state === 'working' || agent.state === 'stuck');

/** Works on all at the same time, and gives those that it did. */
async function each(chosen: readonly Session[], failure: string, work: (session: Session) => Promise<void>): Promise<Session[]> {
  const done: Session[] = [];
  const failed: string[] = [];
  await Promise.all(
    chosen.map((session) =>
      work(session).then(
        () => done.push(session),
        (error: unknown) => failed.push(`${label(session)}: ${sentence(error)}`),
      ),
    ),
  );
  if (failed.length) ui.toast(`${failure} ${failed.join('; ')}`, 'error');
  return done;
}

/** Asks first, and names those that are in the middle of a turn. */
export async function stopAll(chosen: readonly Session[]): Promise<void> {
  const running = chosen.filter(({ status }) => status === 'running');
  const busy = running.filter(isWorking).map(label);
  const words = busy.length ? 'These agents are working: their turns end unfinished. The conversations are kept.' : 'The conversations are kept.';
  if (!running.length || !(await ui.confirm(`Stop ${plural(running.length, 'session')}?`, words, 'Stop', busy))) return;
  const done = await each(running, 'Not all stopped.', (session) => sessions.stop(session.id));
  if (done.length) ui.toast(`Stopped ${plural(done.length, 'session')}.`);
}

/** Asks first, with what only the containers have. */
export async function deleteAll(chosen: readonly Session[]): Promise<void> {
  const found = await Promise.all(chosen.map(async (session) => ({ session, ...(await losses(session)) })));
  const lines = found.flatMap(({ session, text, lines: own }) => [text && `${label(session)}: ${text}`, ...own.map((line) => `${label(session)}: ${line}`)].filter(Boolean));
  const words = 'Their containers are deleted, with everything in them outside the project folders. The conversations are saved first where that is possible.';
  if (!(await ui.confirm(`Delete ${plural(chosen.length, 'session')}?`, words, 'Delete', lines.length ? lines : chosen.map(label)))) return;
  const done = await each(chosen, 'Not all were deleted.', async (session) => tellKept(session, await sessions.delete(session.id)));
  if (done.length) ui.toast(`Deleted ${plural(done.length, 'session')}.`);
}

/** Sends one prompt to all; whether each took or queued it. One that works queues it. */
export async function promptAll(chosen: readonly Session[], text: string): Promise<boolean> {
  const running = chosen.filter(({ status }) => status === 'running');
  const results = new Map<string, number>();
  const done = await each(running, 'Not all have the prompt.', async (session) => {
    const { result } = await once.send(session.id, text, (key) => api.prompt(session.id, text, key, false));
    if (result === 'unconfirmed') throw new Error('nothing shows that it took the prompt.');
    results.set(result, (results.get(result) ?? 0) + 1);
  });
  const [sent, queued] = [results.get('submitted') ?? 0, results.get('queued') ?? 0];
  const words = [sent && `Sent to ${plural(sent, 'agent')}`, queued && `queued for ${queued}`].filter(Boolean).join(', ');
  if (words) ui.toast(`${words.charAt(0).toUpperCase()}${words.slice(1)}.`);
  return done.length === running.length;
}
