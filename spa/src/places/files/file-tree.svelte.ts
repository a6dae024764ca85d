/** The folders of a workspace as far as they were unfolded. */
import { sentence } from '../../lib/api';
import { filesApi } from '../../lib/api-files';
import { decodePath } from '../../lib/paths';
import type { FileEntry } from '../../lib/types';

export interface TreeRow {
  path: string;
  entry: FileEntry;
  depth: number;
  expanded: boolean;
}

const byKindAndName = (a: FileEntry, b: FileEntry): number =>
  Number(b.type === 'directory') - Number(a.type === 'directory') || a.name.localeCompare(b.name, undefined, { numeric: true });

export class FileTree {
  phase = $state<'loading' | 'ready' | 'error'>('loading');
  error = $state('');
  #folders = $state.raw<ReadonlyMap<string, readonly FileEntry[]>>(new Map());
  #expanded = $state.raw<ReadonlySet<string>>(new Set());

  readonly rows: readonly TreeRow[] = $derived(this.#walk('', 0));

  constructor(readonly session: string) {}

  /** Fetches the root and each unfolded folder anew. */
  async refresh(): Promise<void> {
    try {
      await this.#fetch('');
      this.phase = 'ready';
      this.error = '';
    } catch (error) {
      this.phase = 'error';
      this.error = sentence(error);
      return;
    }
    await Promise.all([...this.#expanded].map((path) => this.#fetch(path).catch(() => this.#fold(path))));
  }

  async toggle(path: string): Promise<void> {
    if (this.#expanded.has(path)) {
      this.#fold(path);
      return;
    }
    await this.#fetch(path);
    this.#expanded = new Set(this.#expanded).add(path);
  }

  /** Unfolds the folders above a file. */
  async reveal(path: string): Promise<void> {
    const parts = path.split('/').slice(0, -1);
    for (let depth = 1; depth <= parts.length; depth += 1) {
      const folder = parts.slice(0, depth).join('/');
      if (!this.#expanded.has(folder)) await this.toggle(folder);
    }
  }

  async #fetch(path: string): Promise<void> {
    const { entries } = await filesApi.directory(this.session, path);
    // A placeholder keeps the container from making a protected path that the project lacks.
    const shown = entries.filter((entry) => !entry.placeholder).sort(byKindAndName);
    this.#folders = new Map(this.#folders).set(path, shown);
  }

  #fold(path: string): void {
    const expanded = new Set(this.#expanded);
    expanded.delete(path);
    this.#expanded = expanded;
  }

  #walk(folder: string, depth: number): TreeRow[] {
    return (this.#folders.get(folder) ?? []).flatMap((entry) => {
      const name = entry.encoded === undefined ? entry.name : decodePath(entry.encoded);
      const path = folder ? `${folder}/${name}` : name;
      const expanded = entry.type === 'directory' && this.#expanded.has(path);
      const row = { path, entry, depth, expanded };
      return expanded ? [row, ...this.#walk(path, depth + 1)] : [row];
    });
  }
}
