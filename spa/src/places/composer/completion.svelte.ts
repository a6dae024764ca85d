/** What can follow `@` or `/` in a prompt: files of the project and commands of the tool. */
import { filesApi } from '../../lib/api-files';
import { printable } from '../../lib/printable';
import { find } from '../../lib/search';
import type { FileEntry } from '../../lib/types';
import { commandsOf } from './commands';

export interface Offer {
  readonly label: string;
  readonly detail: string;
  /** What takes the place of the word under the cursor. */
  readonly text: string;
  /** A folder: what is in it is offered next. */
  readonly goesOn: boolean;
}

/** The word under the cursor, and where it begins. */
export interface Word {
  readonly kind: 'file' | 'command';
  readonly text: string;
  readonly start: number;
}

const MOST = 8;
const KEPT_MS = 10_000;

/** The word before the cursor that can be completed, if there is one. */
export function wordAt(value: string, cursor: number): Word | null {
  const before = value.slice(0, cursor);
  const command = /^\/([\w:-]*)$/.exec(before);
  if (command) return { kind: 'command', text: command[1] ?? '', start: 0 };
  const file = /(?:^|\s)@([^\s@]*)$/.exec(before);
  return file ? { kind: 'file', text: file[1] ?? '', start: cursor - (file[1]?.length ?? 0) - 1 } : null;
}

/** A name that can be written as one word, and looks like what it is: the container chose it. */
const isPlain = (name: string): boolean => printable(name) === name && !/[\s@]/.test(name);

export class Completion {
  offers = $state.raw<readonly Offer[]>([]);
  /** The offer that Enter takes. */
  at = $state(0);
  word: Word | null = null;
  readonly #session: () => { id: string; tool: string };
  readonly #kept = new Map<string, { at: number; entries: Promise<readonly FileEntry[]> }>();
  #latest = 0;

  constructor(session: () => { id: string; tool: string }) {
    this.#session = session;
  }

  /** Offers what fits the word before the cursor; nothing if there is none. */
  async look(value: string, cursor: number): Promise<void> {
    this.#latest += 1;
    const mine = this.#latest;
    const word = this.#session().tool === 'shell' ? null : wordAt(value, cursor);
    const offers = word ? await (word.kind === 'file' ? this.#files(word.text) : this.#commands(word.text)) : [];
    if (mine !== this.#latest) return;
    this.word = word;
    this.offers = offers;
    this.at = 0;
  }

  move(by: number): void {
    this.at = (this.at + by + this.offers.length) % this.offers.length;
  }

  close(): void {
    this.#latest += 1;
    this.offers = [];
    this.word = null;
  }

  async #files(text: string): Promise<readonly Offer[]> {
    const slash = text.lastIndexOf('/') + 1;
    const folder = text.slice(0, slash);
    const typed = text.slice(slash);
    const all = (await this.#entries(folder)).filter((one) => !one.placeholder && !one.encoded && isPlain(one.name));
    const shown = all.filter(({ name }) => typed.startsWith('.') || !name.startsWith('.'));
    return find(typed, shown, ({ name }) => [name, ''] as const)
      .slice(0, MOST)
      .map(({ name, type }) => {
        const isFolder = type === 'directory';
        const path = `${folder}${name}${isFolder ? '/' : ''}`;
        return { label: path, detail: '', text: isFolder ? `@${path}` : `@${path} `, goesOn: isFolder };
      });
  }

  async #commands(text: string): Promise<readonly Offer[]> {
    const all = await commandsOf(this.#session());
    return all
      .filter(([name]) => name.startsWith(text))
      .slice(0, MOST)
      .map(([name, detail]) => ({ label: `/${name}`, detail, text: `/${name} `, goesOn: false }));
  }

  /** The entries of a folder of the project; none if it cannot be read. */
  #entries(folder: string): Promise<readonly FileEntry[]> {
    const now = Date.now();
    const known = this.#kept.get(folder);
    if (known && now - known.at < KEPT_MS) return known.entries;
    const entries = filesApi.directory(this.#session().id, folder).then(
      (found) => found.entries,
      () => [],
    );
    this.#kept.set(folder, { at: now, entries });
    return entries;
  }
}
