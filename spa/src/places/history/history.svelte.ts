/** One page of past runs, for the query in the address. */
import { sentence } from '../../lib/api';
import { historyApi, type HistoryQuery } from '../../lib/api-history';
import type { HistoryEntry } from '../../lib/types';
import type { Phase } from '../../state/sessions.svelte';

export class HistoryPage {
  phase = $state<Phase>('loading');
  error = $state('');
  entries = $state.raw<readonly HistoryEntry[]>([]);
  total = $state(0);
  #latest = 0;

  /** If answers overtake each other, the answer to the newest question wins. */
  async load(query: HistoryQuery): Promise<void> {
    this.#latest += 1;
    const mine = this.#latest;
    try {
      const { entries, total } = await historyApi.runs(query);
      if (mine !== this.#latest) return;
      this.entries = entries;
      this.total = total;
      this.phase = 'ready';
      this.error = '';
    } catch (error) {
      if (mine !== this.#latest) return;
      this.error = sentence(error);
      // Runs that are on the screen stay there when one look fails.
      if (this.phase !== 'ready') this.phase = 'error';
    }
  }
}
