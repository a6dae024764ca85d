/** Keeps the list of changes current while somebody looks at it. */
import type { Session } from '../../lib/types';
import { sessions } from '../../state/sessions.svelte';

/** While the tool works, nothing tells of each file that it writes. */
const WHILE_WORKING_MS = 5_000;
/** After a word of the server there may soon be another one. */
const SETTLING_MS = 300;

/** Looks again when something may have changed. `watched` gives the session while it is on the screen; call it in a component. */
export function keepCurrent(watched: () => Session | undefined, look: () => void): void {
  const isWorking = $derived(watched()?.status === 'running' && ['working', 'unknown', 'starting'].includes(watched()?.agent.state ?? ''));
  /** It is another text when a turn begins or ends, a checkpoint was made, or other numbers are known. */
  const moment = $derived.by(() => {
    const session = watched();
    return session ? JSON.stringify([session.status, session.agent.state, session.changes, sessions.reviewed]) : '';
  });
  let last = '';

  $effect(() => {
    const [before, now] = [last, moment];
    if (now) last = now;
    if (!before || !now || before === now) return;
    const timer = setTimeout(look, SETTLING_MS);
    return () => clearTimeout(timer);
  });

  $effect(() => {
    if (!isWorking) return;
    const timer = setInterval(() => {
      if (document.visibilityState === 'visible') look();
    }, WHILE_WORKING_MS);
    return () => clearInterval(timer);
  });
}
