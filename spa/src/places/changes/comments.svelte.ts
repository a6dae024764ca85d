/** Comments on lines. The server keeps them until the tool has them; what is being written is kept in this browser. */
import { sentence } from '../../lib/api';
import { review } from '../../lib/api-review';
import { Once } from '../../lib/once';
import type { PromptResult, ReviewComment } from '../../lib/types';
import { type Form, forms, put } from '../../state/written';

export type { Form };

export type Sending = { result: 'sending' | PromptResult } | { result: 'refused'; text: string };

const MOST_SESSIONS = 20;

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
    return forms.current[this.session] ?? [];
  }

  of(path: string): ReviewComment[] {
    return this.list.filter((comment) => comment.path === path);
  }

  /** The form in which a comment is being changed. It outlives the editor, which is made anew when the tool writes the file. */
  formOf({ comment_id }: ReviewComment): Form | undefined {
    return this.forms.find((form) => form.comment_id === comment_id);
  }

  /** The forms of new comments on a file. */
  newOn(path: string): readonly Form[] {
    return this.forms.filter((form) => form.path === path && !form.comment_id);
  }

  async look(): Promise<void> {
    try {
      this.list = await review.comments(this.session);
      this.error = '';
      this.#release();
    } catch (error) {
      this.error = sentence(error);
    }
  }

  /** Opens a form for lines, unless one for them is open. */
  begin(form: Omit<Form, 'text'>, text = ''): void {
    if (this.forms.some((one) => isFor(one, form))) return;
    this.begun = { ...form, text };
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

  /** A comment that is gone, since it was sent or deleted, leaves what was being made of it as a new one. */
  #release(): void {
    const known = new Set<string | undefined>(this.list.map(({ comment_id }) => comment_id));
    if (this.forms.every(({ comment_id }) => !comment_id || known.has(comment_id))) return;
    this.#keep(this.forms.map(({ comment_id, ...form }) => (comment_id && known.has(comment_id) ? { ...form, comment_id } : form)));
  }

  #keep(open: readonly Form[]): void {
    put(forms, this.session, open.length > 0 ? open : undefined, MOST_SESSIONS);
  }
}

function isFor(a: Omit<Form, 'text'>, b: Omit<Form, 'text'>): boolean {
  return a.path === b.path && a.line === b.line && a.end_line === b.end_line && a.comment_id === b.comment_id;
}

/** `line 3`, `lines 3–7`, or `the file`. */
export function linesOf({ line, end_line: end }: { line: number; end_line: number }): string {
  if (line === 0) return 'the file';
  return end > line ? `lines ${line}–${end}` : `line ${line}`;
}
