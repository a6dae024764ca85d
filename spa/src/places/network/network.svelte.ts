/** The network of one session: what is allowed, what was refused and what passed. */
import { sentence } from '../../lib/api';
import { network } from '../../lib/api-network';
import type { Network, NetworkChange, NetworkPresets } from '../../lib/types';
import { sessions } from '../../state/sessions.svelte';

export class SessionNetwork {
  current = $state.raw<Network | null>(null);
  ready = $state.raw<NetworkPresets['presets']>([]);
  /** Why the newest look failed; what is known stays. */
  error = $state('');
  /** Why the last change was not made. */
  failure = $state('');
  /** What is being changed; empty for nothing. */
  busy = $state('');
  /** Counts the changes: an answer to a look that began before one is out of date. */
  #changes = 0;

  constructor(readonly id: string) {}

  /** `seen`: a person has it before them. */
  async look(seen: boolean): Promise<void> {
    const before = this.#changes;
    try {
      const found = await network.look(this.id);
      if (before === this.#changes) this.current = found;
      this.error = '';
      if (!seen || !sessions.get(this.id)?.network.refused) return;
      await network.markSeen(this.id);
      void sessions.refresh();
    } catch (error) {
      this.error = sentence(error);
    }
  }

  async lookAtPresets(): Promise<void> {
    if (this.ready.length) return;
    this.ready = (await network.presets().catch(() => null))?.presets ?? [];
  }

  /** Whether the change was made. */
  async change(what: string, change: NetworkChange): Promise<boolean> {
    this.busy = what;
    this.failure = '';
    this.#changes += 1;
    try {
      await network.change(this.id, change);
      return true;
    } catch (error) {
      this.failure = sentence(error);
      return false;
    } finally {
      this.#changes += 1;
      await this.look(true);
      this.busy = '';
    }
  }

  allow(...names: string[]): Promise<boolean> {
    return this.change(names.join(' '), { allow: [...new Set([...(this.current?.allow ?? []), ...names])] });
  }

  remove(name: string): Promise<boolean> {
    return this.change(name, { allow: (this.current?.allow ?? []).filter((other) => other !== name) });
  }
}
