/** The calls about past runs, and what they have cost. */
import { find } from './api';
import type { HistoryEntry, Spending } from './types';

export interface HistoryQuery {
  limit: number;
  offset: number;
  q: string;
  tool: string;
}

export const historyApi = {
  async runs(query: HistoryQuery): Promise<{ entries: HistoryEntry[]; total: number }> {
    const parameters = new URLSearchParams({ limit: String(query.limit), offset: String(query.offset) });
    if (query.q) parameters.set('q', query.q);
    if (query.tool) parameters.set('tool', query.tool);
    const response = await find(`/api/sessions/history?${parameters.toString()}`);
    const entries = (await response.json()) as HistoryEntry[];
    const total = Number(response.headers.get('X-Total-Count') ?? query.offset + entries.length);
    return { entries, total };
  },

  spending: async (days: number) => (await (await find(`/api/cost?days=${days}`)).json()) as Spending,
};
