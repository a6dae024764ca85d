/** What a session's tool does, in the page's words and in the order of who needs a person. */
import { plural } from './format';
import { inProject, isFrozen } from './protection';
import type { Agent, Session } from './types';

/** Who needs a person first. */
const ORDER: readonly Agent['state'][] = [
  'waiting',
  'failed',
  'stuck',
  'done',
  'working',
  'starting',
  'idle',
  'unknown',
  'ended',
  'none',
];

const CALLS: ReadonlySet<Agent['state']> = new Set(['waiting', 'failed', 'stuck', 'done']);

export const STATE_WORDS: Record<Agent['state'], string> = {
  starting: 'Starting',
  working: 'Working',
  waiting: 'Waiting',
  done: 'Done',
  idle: 'Idle',
  failed: 'Failed',
  stuck: 'Stuck',
  ended: 'Ended',
  unknown: 'Running',
  none: 'Stopped',
};

const REASONS: Record<Agent['reason'], string> = {
  '': '',
  retry: 'tries again',
  question: 'question',
  plan: 'plan',
  permission: 'permission',
  dialog: 'dialog',
  login: 'login',
  interrupted: 'interrupted',
  rate_limit: 'rate limit',
  auth: 'not logged in',
  billing: 'billing',
  overloaded: 'overloaded',
  server_error: 'server error',
  network: 'no network',
  other: '',
  crashed: 'crashed',
};

/** What to do about a tool that waits and gives no options. */
const HELP: Partial<Record<Agent['reason'], string>> = {
  question: 'Answer in your own words, or in the terminal.',
  plan: 'Approve or refuse it in the terminal.',
  permission: 'Allow or refuse it in the terminal.',
  dialog: 'Answer it in the terminal, with the arrows and Enter.',
  login: 'Log in at the terminal: the agent says how.',
};

const hasCrashed = ({ state, reason }: Agent): boolean => state === 'ended' && reason === 'crashed';

/** Whether the tool can go on, or is to be judged, by a person only. A crash counts as a failure. */
export function calls(agent: Agent): boolean {
  return CALLS.has(agent.state) || hasCrashed(agent);
}

/** The kind of event in the choice of those that notify. A bell and a broken seal are for a person, as a question is. */
export function kindOf(agent: Agent): 'waiting' | 'done' | 'failed' | 'stuck' {
  if (hasCrashed(agent)) return 'failed';
  const { state } = agent;
  return state === 'done' || state === 'failed' || state === 'stuck' ? state : 'waiting';
}

export function rank(agent: Agent): number {
  return ORDER.indexOf(hasCrashed(agent) ? 'failed' : agent.state);
}

/** The reason of a state in words; empty if there is none. */
export function reason(agent: Agent): string {
  return REASONS[agent.reason];
}

/** The tool's own words: its question, its error or what it said last. Of a frozen session, what was changed. */
export function words(session: Session): string {
  const { status, agent, protection_changes: changes } = session;
  if (isFrozen(session)) return `changed: ${changes?.map(({ path }) => inProject(path, session.workspace)).join(', ') ?? ''}`;
  if (status !== 'running') return '';
  // A plan begins with its title.
  return agent.reason === 'plan' ? agent.text.replace(/^#+ /, '') : agent.text;
}

/** What a person can do who sees that the tool waits; empty if it does not, or its options say it. */
export function help(agent: Agent): string {
  if (agent.state !== 'waiting') return '';
  return agent.options.length > 0 && agent.reason !== 'login' ? '' : (HELP[agent.reason] ?? '');
}

/** Tells one question from the next; empty while none is open. */
export function questionOf({ state, reason, question, text }: Agent): string {
  return state === 'waiting' ? [question, reason, text].join('\n') : '';
}

/** The next step once a turn is over and something has changed: to review it. Empty for none. */
export function nextStep({ status, agent, changes }: Session): string {
  if (status !== 'running' || !changes?.files || !['done', 'idle'].includes(agent.state)) return '';
  return `Review ${plural(changes.files, 'file')}`;
}
