/** What a person writes to the tools: a draft for each session, what became of the last prompt, and the queue. */
import { api, sentence } from '../lib/api';
import { Once } from '../lib/once';
import { Persisted } from '../lib/persisted.svelte';
import type { Prompt, PromptResult } from '../lib/types';

/** What became of the prompt that was sent last. */
export type Outcome = { result: 'sending' | PromptResult } | { result: 'refused'; text: string };

const MOST_DRAFTS = 50;

const isRecord = (value: unknown): value is Record<string, string> =>
  typeof value === 'object' && value !== null && Object.values(value).every((one) => typeof one === 'string');

export class Prompts {
  readonly #drafts = new Persisted<Record<string, string>>('drafts', {}, isRecord);
  #outcomes = $state.raw<ReadonlyMap<string, Outcome>>(new Map());
  #lists = $state.raw<ReadonlyMap<string, readonly Prompt[]>>(new Map());
  readonly #once = new Once();

  draft(id: string): string {
    return this.#drafts.current[id] ?? '';
  }

  write(id: string, text: string): void {
    const others = Object.entries(this.#drafts.current).filter(([other]) => other !== id);
    this.#drafts.current = Object.fromEntries(text ? [...others.slice(1 - MOST_DRAFTS), [id, text]] : others);
    if (this.outcome(id)?.result !== 'sending') this.#became(id, null);
  }

  outcome(id: string): Outcome | undefined {
    return this.#outcomes.get(id);
  }

  queue(id: string): readonly Prompt[] {
    return (this.#lists.get(id) ?? []).filter(({ result }) => result === 'queued');
  }

  /** Sends the draft. It is kept until the tool, or the queue, has it. */
  async send(id: string): Promise<void> {
    const text = this.draft(id);
    if (!text.trim() || this.outcome(id)?.result === 'sending') return;
    this.#became(id, { result: 'sending' });
    try {
      const { result } = await this.#once.send(id, text, (key) => api.prompt(id, text, key));
      if (result !== 'unconfirmed' && this.draft(id) === text) this.write(id, '');
      this.#became(id, { result });
      if (result === 'queued') await this.look(id);
    } catch (error) {
      this.#became(id, { result: 'refused', text: sentence(error) });
    }
  }

  /** Takes a prompt out of the queue; its text is the draft again if there is none. */
  async cancel(id: string, prompt: Prompt): Promise<void> {
    try {
      await api.cancelPrompt(id, prompt.prompt_id);
      if (!this.draft(id)) this.write(id, prompt.text);
    } catch (error) {
      this.#became(id, { result: 'refused', text: sentence(error) });
    }
    await this.look(id);
  }

  async look(id: string): Promise<void> {
    try {
      const list = await api.prompts(id);
      this.#lists = new Map(this.#lists).set(id, list);
    } catch {
      // What was seen last is shown until the next look.
    }
  }

  /** The server says that a session's prompts changed: they are looked at where they are on the page. */
  changed(id: string): void {
    if (this.#lists.has(id)) void this.look(id);
  }

  #became(id: string, outcome: Outcome | null): void {
    const next = new Map(this.#outcomes);
    if (outcome) next.set(id, outcome);
    else next.delete(id);
    this.#outcomes = next;
  }
}

export const prompts = new Prompts();
