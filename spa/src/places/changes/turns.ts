/** Which checkpoints belong together. */
import type { Checkpoint } from '../../lib/types';

/** The checkpoint at which the turn began that ended with the one at `index`; undefined if no turn ended there. */
export function turnBefore(newestFirst: readonly Checkpoint[], index: number): Checkpoint | undefined {
  if (newestFirst[index]?.why !== 'turn') return undefined;
  const earlier = newestFirst.slice(index + 1);
  const end = earlier.findIndex(({ why }) => why === 'turn');
  const own = end < 0 ? earlier : earlier.slice(0, end);
  return own.find(({ why }) => why === 'prompt') ?? earlier[0];
}
