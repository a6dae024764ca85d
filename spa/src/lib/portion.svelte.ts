/** Draws many rows in portions: each is a task of its own, between which the page hears the person. */

/** So many are drawn at once: as many as fill a screen. */
const FIRST = 10;
const STEP = 8;

export class Portion {
  /** How many of the rows are to be drawn now. */
  size = $state(FIRST);

  /** Grows until all are drawn. A component makes it at its start. */
  constructor(all: () => number) {
    $effect(() => {
      if (this.size >= all()) return;
      const timer = setTimeout(() => (this.size += STEP));
      return () => clearTimeout(timer);
    });
  }
}
