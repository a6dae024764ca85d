/** A commit of what a session has changed: what it would hold, and making it. Git in the container does the work. */
import { sentence } from '../../lib/api';
import { review } from '../../lib/api-review';
import { plural } from '../../lib/format';
import type { CommitDraft } from '../../lib/types';
import { messages, put } from '../../state/written';
import { ui } from '../../state/ui.svelte';

const MOST_SESSIONS = 20;
const SHORT = 10;

export class CommitForm {
  open = $state(false);
  phase = $state<'looking' | 'ready' | 'working' | 'failed'>('looking');
  error = $state('');
  draft = $state.raw<CommitDraft | null>(null);
  chosen = $state.raw<ReadonlySet<string>>(new Set());
  name = $state('');
  email = $state('');
  hooks = $state(true);

  constructor(
    readonly session: string,
    /** Called when a commit was made. */
    readonly onDone: () => void,
  ) {}

  /** What is written outlives the dialog, and a reload. */
  get message(): string {
    return messages.current[this.session] ?? '';
  }

  set message(text: string) {
    put(messages, this.session, text || undefined, MOST_SESSIONS);
  }

  /** Why no commit can be made of this draft; empty while one can. */
  get obstacle(): string {
    const { draft } = this;
    if (!draft) return '';
    if (draft.operation) return `A ${draft.operation} is in progress. Finish it in the tab Shell first.`;
    return draft.files.length === 0 ? 'Nothing differs from the last commit.' : '';
  }

  /** Whether all that a commit needs is there. */
  get complete(): boolean {
    return this.draft !== null && !this.obstacle && this.chosen.size > 0 && [this.message, this.name, this.email].every((text) => text.trim() !== '');
  }

  async ask(): Promise<void> {
    this.open = true;
    this.phase = 'looking';
    this.error = '';
    this.draft = null;
    try {
      const draft = await review.commitDraft(this.session);
      this.draft = draft;
      this.name ||= draft.name;
      this.email ||= draft.email;
      this.chosen = new Set(draft.files.map(({ path }) => path));
      this.phase = 'ready';
    } catch (error) {
      this.phase = 'failed';
      this.error = sentence(error);
    }
  }

  close(): void {
    if (this.phase !== 'working') this.open = false;
  }

  async run(): Promise<void> {
    const { draft } = this;
    if (!draft || !this.complete || this.phase === 'working') return;
    this.phase = 'working';
    this.error = '';
    const paths = draft.files.map(({ path }) => path).filter((path) => this.chosen.has(path));
    const { message, name, email, hooks } = this;
    try {
      const made = await review.commit(this.session, { message, name: name.trim(), email: email.trim(), paths, hooks });
      this.open = false;
      this.message = '';
      const where = made.branch ? ` on ${made.branch}` : '';
      ui.toast(`Committed ${plural(made.files, 'file')}${where} as ${made.commit.slice(0, SHORT)}.`);
    } catch (error) {
      this.error = sentence(error);
    }
    this.phase = 'ready';
    this.onDone();
  }
}
