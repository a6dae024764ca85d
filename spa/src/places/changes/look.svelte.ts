/** How differences are shown, in this browser. */
import { isBoolean } from '../../lib/kinds';
import { Persisted } from '../../lib/persisted.svelte';
import { panes } from '../../state/panes.svelte';

type Layout = 'split' | 'unified';

const isLayout = (value: unknown): value is Layout => value === 'split' || value === 'unified';

/** Two columns of code need so many pixels. */
const LEAST_FOR_SPLIT = 680;

class Look {
  readonly #layout = new Persisted<Layout>('diff-layout', 'split', isLayout);
  readonly #ignoreSpace = new Persisted<boolean>('diff-ignore-space', false, isBoolean);

  get split(): boolean {
    return this.#layout.current === 'split';
  }

  set split(split: boolean) {
    this.#layout.current = split ? 'split' : 'unified';
  }

  get ignoreSpace(): boolean {
    return this.#ignoreSpace.current;
  }

  set ignoreSpace(ignore: boolean) {
    this.#ignoreSpace.current = ignore;
  }

  /** Whether there is room for two columns beside the list of files. */
  wide(width: number): boolean {
    return width >= LEAST_FOR_SPLIT + panes.size('list');
  }

  /** The layout for so much room. */
  layout(width: number): Layout {
    return this.split && width >= LEAST_FOR_SPLIT ? 'split' : 'unified';
  }
}

export const look = new Look();
