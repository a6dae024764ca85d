/** The calls of the logins that stay on this machine. Only their place and a new session load them. */
import { get, write } from './api';
import type { Login } from './types';

const login = (name: string): string => `/api/logins/${encodeURIComponent(name)}`;

export const logins = {
  list: () => get<Login[]>('/api/logins'),
  /** Reads the value now: a command of the person's may take half a minute. */
  check: (name: string) => write<Login>('POST', `${login(name)}/check`),
  revoke: (name: string) => write<Login>('POST', `${login(name)}/revoke`),
  allow: (name: string) => write<Login>('DELETE', `${login(name)}/revoke`),
};
