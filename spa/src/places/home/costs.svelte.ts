/** What the conversations of the list have cost: asked one after the other, again when a turn has ended. */
import { api } from '../../lib/api';
import type { Cost, Session } from '../../lib/types';

class Costs {
  #known = $state.raw<ReadonlyMap<string, Cost>>(new Map());
  readonly #asked = new Map<string, string>();
  /** What is in the queue and still on the page. */
  readonly #wanted = new Map<string, string>();
  #last: Promise<void> = Promise.resolve();

  of(id: string): Cost | undefined {
    return this.#known.get(id);
  }

  /** Has a session's cost asked for, in its turn; the function that is returned gives that up. */
  ask({ id, session_id, agent }: Session): () => void {
    const about = `${session_id} ${agent.turn} ${agent.state}`;
    const giveUp = (): void => {
      if (this.#wanted.get(id) === about) this.#wanted.delete(id);
    };
    if (this.#asked.get(id) === about) return giveUp;
    this.#wanted.set(id, about);
    this.#last = this.#last.then(async () => {
      if (this.#wanted.get(id) !== about) return;
      this.#wanted.delete(id);
      this.#asked.set(id, about);
      try {
        this.#known = new Map(this.#known).set(id, await api.cost(id));
      } catch {
        this.#asked.delete(id); // it has gone, or the server is away: the page says so elsewhere
      }
    });
    return giveUp;
  }
}

export const costs = new Costs();
