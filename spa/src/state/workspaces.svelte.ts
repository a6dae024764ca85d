/** The projects under the workspace roots. */
import { api, sentence } from '../lib/api';
import type { NewFolder, Workspace, WorkspaceList } from '../lib/types';
import type { Phase } from './sessions.svelte';

export interface Root {
  /** As configured, `~` and all. */
  label: string;
  path: string;
  projects: Workspace[];
}

export class Workspaces {
  phase = $state<Phase>('loading');
  error = $state('');
  #list = $state.raw<WorkspaceList>({ roots: [], expanded_roots: [], workspaces: [], truncated: false });

  /** Number of the newest question or change; answers to older ones are dropped. */
  #latest = 0;

  readonly projects: readonly Workspace[] = $derived(this.#list.workspaces);

  readonly roots: readonly Root[] = $derived(
    this.#list.expanded_roots.map((path, index) => ({
      path,
      label: this.#list.roots[index] ?? path,
      projects: this.#list.workspaces.filter((project) => project.root === path),
    })),
  );

  /** The person's home directory, as far as a root that is written with `~` tells it. */
  readonly #home: string = $derived.by(() => {
    for (const { path, label } of this.roots)
      if (label.startsWith('~/') && path.endsWith(label.slice(1))) return path.slice(0, 1 - label.length);
    return '';
  });

  /** A path as a person writes it, with `~` for the home directory. */
  short(path: string): string {
    return this.#home && path.startsWith(`${this.#home}/`) ? `~${path.slice(this.#home.length)}` : path;
  }

  async refresh(): Promise<void> {
    this.#latest += 1;
    const mine = this.#latest;
    try {
      const list = await api.workspaces();
      // A change that was made meanwhile has brought its own, newer list.
      if (mine === this.#latest) this.#list = list;
      this.phase = 'ready';
      this.error = '';
    } catch (error) {
      this.error = sentence(error);
      if (this.phase === 'loading') this.phase = 'error';
    }
  }

  async addRoot(path: string): Promise<void> {
    this.#put(await api.addRoot(path));
  }

  async removeRoot(label: string): Promise<void> {
    this.#put(await api.removeRoot(label));
  }

  #put(list: WorkspaceList): void {
    this.#latest += 1;
    this.#list = list;
  }

  /** Creates a project folder and returns its path. */
  async createProject(folder: NewFolder): Promise<string> {
    const { path } = await api.createFolder(folder);
    await this.refresh();
    return path;
  }
}

export const workspaces = new Workspaces();
