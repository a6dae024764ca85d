/** A change of a session's state as a sentence, for those who hear the page. */
import { reason } from './agent';
import { label } from './format';
import { isFrozen } from './protection';
import type { Agent, Session } from './types';

/** Characters of the tool's own words. */
const MOST = 300;

const SAID: Partial<Record<Agent['state'], string>> = {
  working: 'is working',
  waiting: 'is waiting for you',
  done: 'is done',
  failed: 'has failed',
  stuck: 'is stuck',
};

/** The state of a session, for two of which nothing is said anew. */
export function stateOf(session: Session): string {
  if (session.unreachable_since) return 'unreachable';
  if (isFrozen(session)) return 'frozen';
  const { status, agent } = session;
  if (status !== 'running') return status;
  if (agent.state === 'ended') return agent.reason === 'crashed' ? 'crashed' : 'ended';
  return agent.state === 'waiting' ? `waiting ${agent.question}` : agent.state;
}

/** What is said when a session's state was another one before; empty for nothing. */
export function announced(before: string, session: Session): string {
  const now = stateOf(session);
  if (before === now) return '';
  const name = label(session);
  const { state, text } = session.agent;
  if (now === 'frozen') return `${name} is frozen: a protected file was changed.`;
  if (now === 'stopped') return `${name} has stopped.`;
  if (now === 'crashed') return `${name} has crashed.`;
  // The end of a turn that somebody looks at is never `done`.
  if (now === 'idle') return before === 'working' ? `${name} ${session.agent.reason === 'interrupted' ? 'was interrupted' : 'is done'}.` : '';
  const said = session.status === 'running' ? SAID[state] : undefined;
  if (now === 'unreachable' || !said) return '';
  const more = state === 'waiting' || state === 'failed' ? [reason(session.agent), text].filter(Boolean).join(': ').slice(0, MOST) : '';
  return more ? `${name} ${said}: ${more}` : `${name} ${said}.`;
}
