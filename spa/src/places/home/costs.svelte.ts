/** What the conversations of the list have cost: asked one after the other, again when a turn has ended. */
import { api } from '../../lib/api';
import type { Cost, Session } from '../../lib/types';

class Costs {
  #known = $state.raw<ReadonlyMap<string, Cost>>(new Map());
  readonly #asked = new Map<string, string>();
  #last: Promise<void> = Promise.resolve();

  of(id: string): Cost | undefined {
    return this.#known.get(id);
  }

  ask({ id, session_id, agent }: Session): void {
    const about = `${session_id} ${agent.turn} ${agent.state}`;
    if (this.#asked.get(id) === about) return;
    this.#asked.set(id, about);
    this.#last = this.#last.then(async () => {
      try {
        this.#known = new Map(this.#known).set(id, await api.cost(id));
      } catch {
        this.#asked.delete(id); // it has gone, or the server is away: the page says so elsewhere
      }
    });
  }
}

export const costs = new Costs();
