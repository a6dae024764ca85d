/** The calls of a session's network and of what it serves. Only the Network tab, a new session and the ports load them. */
import { find, get, session, write } from './api';
import type { Network, NetworkChange, NetworkPresets, Session } from './types';

const port = (id: string, number: number): string => `${session(id)}/ports/${number}`;

export const network = {
  look: async (id: string) => (await (await find(`${session(id)}/network`)).json()) as Network,
  /** A person has looked at the refusals: they count no longer. */
  markSeen: (id: string) => write<undefined>('POST', `${session(id)}/network/seen`),
  change: (id: string, change: NetworkChange) => write<Session>('PATCH', session(id), change),
  presets: () => get<NetworkPresets>('/api/network/presets'),
  /** Opens a port and gives the address at which a browser sees it. Each call gives an address of its own. */
  openPort: async (id: string, number: number) => (await write<{ url: string }>('POST', port(id, number))).url,
  closePort: (id: string, number: number) => write<undefined>('DELETE', port(id, number)),
};
