/** How the page is divided, in this browser. */
import { Persisted } from '../lib/persisted.svelte';

/** What can stand beside the terminal of a session. */
export const BESIDE = ['changes', 'transcript', 'shell', 'files'] as const;
export type Beside = (typeof BESIDE)[number];

/** The bounds of each size: the sidebar and lists in pixels, the second pane in percent of what there is for both. */
export const SIZES = {
  rail: { least: 200, most: 480, normal: 248 },
  list: { least: 180, most: 560, normal: 264 },
  beside: { least: 20, most: 80, normal: 50 },
  preview: { least: 20, most: 80, normal: 50 },
} as const;
export type SizeName = keyof typeof SIZES;

/** Two panes need so many pixels. */
export const LEAST_FOR_TWO = 900;

const isBeside = (value: unknown): value is Beside | '' => value === '' || BESIDE.includes(value as Beside);

class Panes {
  readonly #beside = new Persisted<Beside | ''>('pane-beside', '', isBeside);
  readonly #sizes = Object.fromEntries(
    Object.entries(SIZES).map(([name, { least, most, normal }]) => [
      name,
      new Persisted<number>(`width-${name}`, normal, (value): value is number => typeof value === 'number' && value >= least && value <= most),
    ]),
  ) as Record<SizeName, Persisted<number>>;

  /** Empty for none. */
  get beside(): Beside | '' {
    return this.#beside.current;
  }

  set beside(beside: Beside | '') {
    this.#beside.current = beside;
  }

  size(name: SizeName): number {
    return this.#sizes[name].current;
  }

  /** What a splitter needs to know of one of the sizes. */
  splitter(name: SizeName): { size: number; least: number; most: number; normal: number; onsize: (size: number) => void } {
    return { ...SIZES[name], size: this.size(name), onsize: (size: number) => (this.#sizes[name].current = size) };
  }
}

export const panes = new Panes();
