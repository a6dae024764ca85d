/** What a person does with a session that works on a clone. A chunk of its own: most pages show no such session. */
import { api, sentence } from '../lib/api';
import { basename, label, plural } from '../lib/format';
import type { Session } from '../lib/types';
import { ui } from './ui.svelte';

/** Brings the session's commits into the project as a branch, and says which. */
export async function fetchCommits(session: Session): Promise<void> {
  ui.toast(`Fetching the commits of ${label(session)} …`);
  try {
    const { branch, commits } = await api.fetchCommits(session.id);
    const what = commits ? `${plural(commits, 'new commit')} of ${label(session)}` : `Nothing new of ${label(session)}`;
    ui.toast(`${what} in the branch ${branch} of ${basename(session.workspace)}.`);
  } catch (error) {
    ui.toast(`The commits of ${label(session)} were not fetched. ${sentence(error)}`, 'error');
  }
}

/** What a delete would take along, in a sentence for the question before it. */
export async function wouldBeLost(session: Session): Promise<string> {
  try {
    const { commits, uncommitted, stashes, work_trees: trees, unreadable, nested } = await api.unfetched(session.id);
    const parts = [
      commits ? plural(commits, 'commit') : '',
      uncommitted ? 'uncommitted changes' : '',
      stashes ? plural(stashes, 'stash', 'stashes') : '',
      trees ? `uncommitted changes in ${plural(trees, 'other work tree')}` : '',
      nested.length ? `the history of ${nested.join(', ')}` : '',
    ].filter(Boolean);
    const lost = unreadable ? ` No fetch and no bundle brings ${plural(unreadable, 'file')} that only root can read.` : '';
    if (!parts.length) return `All its commits were fetched.${lost}`;
    return `Not fetched yet: ${new Intl.ListFormat('en').format(parts)}.${lost} A bundle of them is kept beside the conversation; Fetch brings them to the project first.`;
  } catch (error) {
    return `What was not fetched is not known: ${sentence(error)}`;
  }
}
