/** Which sessions were shown last, and whose views are mounted: those stay alive, so that going back costs nothing. */
import { isTexts } from '../lib/kinds';
import { Persisted } from '../lib/persisted.svelte';

const MOST_ALIVE = 12;
const MOST_REMEMBERED = 50;

export class Deck {
  /** The mounted ones. Their order never changes, so that no view is moved in the page. */
  ids = $state.raw<readonly string[]>([]);
  readonly #recent = new Persisted<string[]>('recent-sessions', [], isTexts);
  /** Those with something unsaved in them. */
  readonly #held = new Set<string>();

  /** Most recently shown first, in this browser. */
  get recent(): readonly string[] {
    return this.#recent.current;
  }

  show(id: string): void {
    this.#recent.current = [id, ...this.recent.filter((other) => other !== id)].slice(0, MOST_REMEMBERED);
    if (this.ids.includes(id)) return;
    const alive = [...this.ids, id];
    const age = (one: string): number => (this.recent.includes(one) ? this.recent.indexOf(one) : MOST_REMEMBERED);
    const oldest = alive.filter((one) => !this.#held.has(one)).sort((a, b) => age(b) - age(a));
    const dropped = oldest.slice(0, Math.max(0, alive.length - MOST_ALIVE));
    this.ids = alive.filter((one) => !dropped.includes(one));
  }

  /** Whether a session's view has something unsaved in it. */
  holds(id: string): boolean {
    return this.#held.has(id);
  }

  /** Whether a view must stay, however long ago it was shown. */
  hold(id: string, held: boolean): void {
    if (held) this.#held.add(id);
    else this.#held.delete(id);
  }
}

export const deck = new Deck();
