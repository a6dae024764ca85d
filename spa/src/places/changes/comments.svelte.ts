/** Comments on lines. The server keeps them until the tool has them; what is being written is kept in this browser. */
import { sentence } from '../../lib/api';
import { review } from '../../lib/api-review';
import { Once } from '../../lib/once';
import { Persisted } from '../../lib/persisted.svelte';
import type { PromptResult, ReviewComment } from '../../lib/types';

/** A comment that is being written. */
export interface Form {
  path: string;
  /** From 1; 0 for the file as a whole. */
  line: number;
  end_line: number;
  text: string;
}

export type Sending = { result: 'sending' | PromptResult } | { result: 'refused'; text: string };

type Kept = Record<string, readonly Form[]>;

const MOST_SESSIONS = 20;

const isKept = (value: unknown): value is Kept => typeof value === 'object' && value !== null && Object.values(value).every(Array.isArray);

const kept = new Persisted<Kept>('comments-written', {}, isKept);

export class Comments {
  list = $state.raw<readonly ReviewComment[]>([]);
  error = $state('');
  sending = $state.raw<Sending | null>(null);
  readonly #once = new Once();

  /** The form that was opened last. */
  begun: Form | null = null;

  constructor(readonly session: string) {}

  /** The forms of this session that are open, in the order in which they were opened. */
  get forms(): readonly Form[] {
    return kept.current[this.session] ?? [];
  }

  of(path: string): ReviewComment[] {
    return this.list.filter((comment) => comment.path === path);
  }

  async look(): Promise<void> {
    try {
      this.list = await review.comments(this.session);
      this.error = '';
    } catch (error) {
      this.error = sentence(error);
    }
  }

  /** Opens a form for lines, unless one for them is open. */
  begin(form: Omit<Form, 'text'>): void {
    if (this.forms.some((one) => isFor(one, form))) return;
    this.begun = { ...form, text: '' };
    this.#keep([...this.forms, this.begun]);
  }

  write(form: Form, text: string): void {
    this.#keep(this.forms.map((one) => (isFor(one, form) ? { ...one, text } : one)));
  }

  cancel(form: Form): void {
    this.#keep(this.forms.filter((one) => !isFor(one, form)));
  }

  /** Gives the server what was written. The form stays if that fails. */
  async save(form: Form): Promise<void> {
    const comment = await review.addComment(this.session, form);
    this.cancel(form);
    this.list = [...this.list, comment];
    this.sending = null;
  }

  async change(comment: ReviewComment, text: string): Promise<void> {
    const changed = await review.changeComment(this.session, comment.comment_id, text);
    this.list = this.list.map((one) => (one.comment_id === changed.comment_id ? changed : one));
  }

  async remove(comment: ReviewComment): Promise<void> {
    await review.removeComment(this.session, comment.comment_id);
    this.list = this.list.filter((one) => one.comment_id !== comment.comment_id);
  }

  /** Sends all to the tool as one message. The server drops them only when the tool, or the queue, has it. */
  async send(): Promise<void> {
    if (this.list.length === 0 || this.sending?.result === 'sending') return;
    const content = JSON.stringify(this.list);
    this.sending = { result: 'sending' };
    try {
      const { result } = await this.#once.send(this.session, content, (key) => review.sendComments(this.session, key));
      this.sending = { result };
    } catch (error) {
      this.sending = { result: 'refused', text: sentence(error) };
    }
    await this.look();
  }

  #keep(forms: readonly Form[]): void {
    const others = Object.entries(kept.current).filter(([id]) => id !== this.session);
    kept.current = Object.fromEntries(forms.length > 0 ? [...others.slice(1 - MOST_SESSIONS), [this.session, forms]] : others);
  }
}

function isFor(a: Omit<Form, 'text'>, b: Omit<Form, 'text'>): boolean {
  return a.path === b.path && a.line === b.line && a.end_line === b.end_line;
}

/** `line 3`, `lines 3–7`, or `the file`. */
export function linesOf({ line, end_line: end }: { line: number; end_line: number }): string {
  if (line === 0) return 'the file';
  return end > line ? `lines ${line}–${end}` : `line ${line}`;
}
