import { unpack } from './luggage';

// Before anything is read; in unit tests there is no address.
if ('location' in globalThis) unpack();

/** A value that survives a reload, in localStorage under `clincus.<name>`, and follows other tabs. */
export class Persisted<T> {
  #value = $state.raw() as T;
  readonly #key: string;

  /** `accept` says whether what is stored is a T; anything else is the initial value. */
  constructor(name: string, initial: T, accept: (value: unknown) => value is T) {
    this.#key = `clincus.${name}`;
    this.#value = initial;
    const read = (text: string | null): void => {
      try {
        const stored: unknown = JSON.parse(text ?? 'null');
        if (accept(stored)) this.#value = stored;
      } catch {
        // The stored text is not ours: keep the value.
      }
    };
    try {
      read(localStorage.getItem(this.#key));
      window.addEventListener('storage', (event) => {
        if (event.key === this.#key) read(event.newValue);
      });
    } catch {
      // Storage is forbidden: the value lives as long as the page.
    }
  }

  get current(): T {
    return this.#value;
  }

  set current(value: T) {
    this.#value = value;
    try {
      localStorage.setItem(this.#key, JSON.stringify(value));
    } catch {
      // Storage is full or forbidden: the value lives as long as the page.
    }
  }
}
