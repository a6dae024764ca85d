/** The network modes of a session in words. */
import type { NetworkMode } from '../../lib/types';

export const MODES: readonly { mode: NetworkMode; name: string; text: string; change: string }[] = [
  {
    mode: 'open',
    name: 'Open',
    text: 'The session reaches the internet, and all that this machine reaches.',
    change: 'Within a second the container gets its network card. From then on nothing is refused, and nothing is counted.',
  },
  {
    mode: 'allow-list',
    name: 'Allow list',
    text: 'Only the names on a list are reached, through a proxy on this host. Everything else is refused and listed.',
    change: 'Within a second all other connections end, and only the names below are reached. A program that was started before may have to be started again to find the proxy.',
  },
  {
    mode: 'none',
    name: 'No network',
    text: 'Nothing goes in or out. The agent does not reach its vendor, either.',
    change: 'Within a second all connections end, those of the agent to its vendor, too. It cannot go on until you change this back.',
  },
];
