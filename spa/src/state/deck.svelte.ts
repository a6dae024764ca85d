/** Which sessions' views are mounted: those visited last stay alive, so that going back costs nothing. */
const MOST_ALIVE = 12;

export class Deck {
  ids = $state.raw<readonly string[]>([]);
  /** Least recently shown first. `ids` keeps its order, so that no view is moved in the page. */
  #recent: string[] = [];

  show(id: string): void {
    this.#recent = [...this.#recent.filter((other) => other !== id), id];
    if (!this.ids.includes(id)) this.ids = [...this.ids, id];
    while (this.#recent.length > MOST_ALIVE) this.drop(this.#recent[0] ?? '');
  }

  drop(id: string): void {
    this.#recent = this.#recent.filter((other) => other !== id);
    this.ids = this.ids.filter((other) => other !== id);
  }

  /** Most recently shown first. */
  get recent(): readonly string[] {
    return this.#recent.toReversed();
  }
}

export const deck = new Deck();
