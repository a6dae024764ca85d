/** What a person does with a session that works on a clone. A chunk of its own: most pages show no such session. */
import { api, sentence } from '../lib/api';
import { basename, label, plural } from '../lib/format';
import type { Session } from '../lib/types';
import { ui } from './ui.svelte';

/** Brings the session's commits into the project as a branch, and says which; whether it could. Without a name it is that of the session. */
export async function fetchCommits(session: Session, name = ''): Promise<boolean> {
  ui.toast(`Fetching the commits of ${label(session)} …`);
  try {
    const { branch, commits } = await api.fetchCommits(session.id, name);
    const what = commits ? `${plural(commits, 'new commit')} of ${label(session)}` : `Nothing new of ${label(session)}`;
    ui.toast(`${what} in the branch ${branch} of ${basename(session.workspace)}.`);
    return true;
  } catch (error) {
    ui.toast(`The commits of ${label(session)} were not fetched. ${sentence(error)}`, 'error');
    return false;
  }
}
