/** The projects under the workspace roots. */
import { api, sentence } from '../lib/api';
import type { Workspace, WorkspaceList } from '../lib/types';
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
  #list = $state.raw<WorkspaceList>({ roots: [], expanded_roots: [], workspaces: [] });

  readonly projects: readonly Workspace[] = $derived(this.#list.workspaces);

  readonly roots: readonly Root[] = $derived(
    this.#list.expanded_roots.map((path, index) => ({
      path,
      label: this.#list.roots[index] ?? path,
      projects: this.#list.workspaces.filter((project) => project.root === path),
    })),
  );

  async refresh(): Promise<void> {
    try {
      this.#list = await api.workspaces();
      this.phase = 'ready';
      this.error = '';
    } catch (error) {
      this.error = sentence(error);
      if (this.phase === 'loading') this.phase = 'error';
    }
  }

  async addRoot(path: string): Promise<void> {
    this.#list = await api.addRoot(path);
  }

  async removeRoot(label: string): Promise<void> {
    this.#list = await api.removeRoot(label);
  }

  /** Creates a project folder and returns its path. */
  async createProject(root: string, name: string): Promise<string> {
    const { path } = await api.createFolder(root, name);
    await this.refresh();
    return path;
  }
}

export const workspaces = new Workspaces();
