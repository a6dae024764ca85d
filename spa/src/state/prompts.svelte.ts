/** What a person writes to the tools: a draft for each session, what became of the last prompt, and the queue. */
import { api, sentence } from '../lib/api';
import { Once } from '../lib/once';
import type { Prompt, PromptChange, PromptResult } from '../lib/types';
import { drafts, put } from './written';

/** What became of the prompt that was sent last. `asked`: it was not sent, since the tool asks by now, or no longer does. */
export type Outcome = { result: 'sending' | PromptResult } | { result: 'refused' | 'asked'; text: string };

const MOST_DRAFTS = 50;

export class Prompts {
  #outcomes = $state.raw<ReadonlyMap<string, Outcome>>(new Map());
  #lists = $state.raw<ReadonlyMap<string, readonly Prompt[]>>(new Map());
  /** What each draft was begun for: the question that was open then; a prompt is for none. */
  readonly #aims = new Map<string, string>();
  readonly #once = new Once();
  /** The number of the last look at the prompts of each session: the answer to an earlier one may be out of date. */
  readonly #looks = new Map<string, number>();

  draft(id: string): string {
    return drafts.current[id] ?? '';
  }

  /** `question` is the one that is open, empty for none. */
  write(id: string, text: string, question = ''): void {
    if (!this.draft(id)) this.#aims.set(id, question);
    put(drafts, id, text || undefined, MOST_DRAFTS);
    if (this.outcome(id)?.result !== 'sending') this.#became(id, null);
  }

  outcome(id: string): Outcome | undefined {
    return this.#outcomes.get(id);
  }

  /** The queue and the last ones, in the order in which they were given. */
  all(id: string): readonly Prompt[] {
    return this.#lists.get(id) ?? [];
  }

  queue(id: string): readonly Prompt[] {
    return this.all(id).filter(({ result }) => result === 'queued');
  }

  /**
   * Whether the draft was begun for what it would be sent as now. If not, a person is told once, and the next time it is:
   * the tool may have begun to ask while they were typing.
   */
  isMeant(id: string, question: string): boolean {
    if ((this.#aims.get(id) ?? '') === question) return true;
    this.#aims.set(id, question);
    const text = question
      ? 'It has asked something since you began to write. Send once more to give this as the answer.'
      : 'What it asked is no longer open. Send once more to give this as a prompt.';
    this.#became(id, { result: 'asked', text });
    return false;
  }

  /** Sends the draft. It is kept until the tool, or the queue, has it. `command`: it is one of the tool's own. */
  async send(id: string, command = false): Promise<void> {
    const text = this.draft(id);
    if (!text.trim() || this.outcome(id)?.result === 'sending') return;
    this.#became(id, { result: 'sending' });
    try {
      const { result } = await this.#once.send(id, text, (key) => api.prompt(id, text, key, command));
      if (result !== 'unconfirmed' && this.draft(id) === text) this.write(id, '');
      this.#became(id, { result });
      await this.look(id);
    } catch (error) {
      this.#became(id, { result: 'refused', text: sentence(error) });
    }
  }

  /** Takes a prompt out of the queue; its text is the draft again, after what is there. */
  async cancel(id: string, prompt: Prompt): Promise<void> {
    try {
      await api.cancelPrompt(id, prompt.prompt_id);
      this.write(id, [this.draft(id).trimEnd(), prompt.text].filter(Boolean).join('\n'));
    } catch (error) {
      this.#became(id, { result: 'refused', text: sentence(error) });
    }
    await this.look(id);
  }

  /** Changes the text or the place of a prompt in the queue; whether that was done. */
  async change(id: string, prompt: Prompt, change: PromptChange): Promise<boolean> {
    let done = false;
    try {
      await api.changePrompt(id, prompt.prompt_id, change);
      done = true;
    } catch (error) {
      this.#became(id, { result: 'refused', text: sentence(error) });
    }
    await this.look(id);
    return done;
  }

  async look(id: string): Promise<void> {
    const number = (this.#looks.get(id) ?? 0) + 1;
    this.#looks.set(id, number);
    try {
      const list = await api.prompts(id);
      if (number === this.#looks.get(id)) this.#lists = new Map(this.#lists).set(id, list);
    } catch {
      // What was seen last is shown until the next look.
    }
  }

  /** The server says that a session's prompts changed: they are looked at where they are on the page. */
  changed(id: string): void {
    if (this.#looks.has(id)) void this.look(id);
  }

  #became(id: string, outcome: Outcome | null): void {
    const next = new Map(this.#outcomes);
    if (outcome) next.set(id, outcome);
    else next.delete(id);
    this.#outcomes = next;
  }
}

export const prompts = new Prompts();
