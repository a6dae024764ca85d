/** What the page says of a login. */
import { moment, plural } from '../../lib/format';
import type { Login } from '../../lib/types';

const SOURCES = { file: 'A file of yours', env: 'A variable of the server', command: 'A command of yours', vendor: 'The agent’s own file, renewed by Clincus' };
const STATES = { unknown: 'Not read yet', good: 'Good', missing: 'Missing', failed: 'Failed', expired: 'Sign in again', revoked: 'Revoked' };
const LIMITS: Record<string, string> = {
  requests_per_day: 'requests a day',
  requests_per_session: 'requests a session',
  tokens_per_day: 'tokens a day',
  tokens_per_session: 'tokens a session',
  usd_per_day: 'dollars a day',
  usd_per_session: 'dollars a session',
};

export const stateWords = (login: Login): string => STATES[login.state];

export const isBad = ({ state }: Login): boolean => state === 'missing' || state === 'failed' || state === 'expired';

/** Where its value lives, and until when it is good. */
export function sourceWords({ source, good_until: until }: Login, now: number): string {
  return until ? `${SOURCES[source]}, good until ${moment(until, now)}` : SOURCES[source];
}

/** What sessions used of it today, and what they may. */
export function usedWords({ today, limit }: Login): string {
  const used = [
    plural(today.requests, 'request'),
    today.tokens > 0 && `${today.tokens.toLocaleString()} tokens`,
    today.usd > 0 && `$${today.usd.toFixed(2)}`,
  ].filter(Boolean);
  const most = Object.entries(limit).map(([name, number]) => `${number.toLocaleString()} ${LIMITS[name] ?? name}`);
  return most.length > 0 ? `${used.join(', ')}; at most ${most.join(', ')}` : used.join(', ');
}
