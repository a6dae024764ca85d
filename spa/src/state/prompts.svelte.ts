/** What a person writes to the tools: a draft for each session, what became of the last prompt, and the queue. */
import { api, sentence } from '../lib/api';
import { Once } from '../lib/once';
import type { Prompt, PromptChange, PromptResult } from '../lib/types';
import { currentSession, drafts, edits, put } from './written';

/** What became of the prompt that was sent last. `asked`: it was not sent, since the tool asks by now, or no longer does. */
export type Outcome = { result: 'sending' | PromptResult } | { result: 'refused' | 'asked'; text: string };

const MOST_DRAFTS = 50;

export class Prompts {
  /** By the session, since an id comes again. */
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

  /** What a prompt of the queue is being changed to; undefined if nobody changes it. */
  edit(id: string, prompt: Prompt): string | undefined {
    return edits.current[id]?.[prompt.prompt_id];
  }

  /** Whether somebody is changing a prompt of the queue. */
  isEdited(id: string): boolean {
    return id in edits.current;
  }

  /** `text` undefined ends the change. */
  writeEdit(id: string, prompt: Pick<Prompt, 'prompt_id'>, text: string | undefined): void {
    const next = Object.entries(edits.current[id] ?? {}).filter(([other]) => other !== prompt.prompt_id);
    if (text !== undefined) next.push([prompt.prompt_id, text]);
    put(edits, id, next.length > 0 ? Object.fromEntries(next) : undefined, MOST_DRAFTS);
  }

  outcome(id: string): Outcome | undefined {
    return this.#outcomes.get(currentSession(id));
  }

  /** The queue and the last ones, in the order in which they were given. */
  all(id: string): readonly Prompt[] {
    return this.#lists.get(currentSession(id)) ?? [];
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
      this.#append(id, prompt.text);
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
      if (number !== this.#looks.get(id)) return;
      this.#lists = new Map(this.#lists).set(currentSession(id), list);
      this.#keepEdits(id);
    } catch {
      // What was seen last is shown until the next look.
    }
  }

  /** What a prompt was being changed to while it left the queue becomes the draft, after what is there. */
  #keepEdits(id: string): void {
    for (const [prompt_id, text] of Object.entries(edits.current[id] ?? {})) {
      const prompt = this.all(id).find((one) => one.prompt_id === prompt_id);
      if (prompt?.result === 'queued') continue;
      this.writeEdit(id, { prompt_id }, undefined);
      if (text.trim() && text !== prompt?.text) this.#append(id, text);
    }
  }

  #append(id: string, text: string): void {
    this.write(id, [this.draft(id).trimEnd(), text].filter(Boolean).join('\n'));
  }

  /** The server says that a session's prompts changed: they are looked at where they are on the page. */
  changed(id: string): void {
    if (this.#looks.has(id)) void this.look(id);
  }

  #became(id: string, outcome: Outcome | null): void {
    const next = new Map(this.#outcomes);
    if (outcome) next.set(currentSession(id), outcome);
    else next.delete(currentSession(id));
    this.#outcomes = next;
  }
}

export const prompts = new Prompts();
