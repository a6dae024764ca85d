/** Putting files back: what would be, and doing it. Nothing is put back without a checkpoint of what is there now. */
import { sentence } from '../../lib/api';
import { review } from '../../lib/api-review';
import { plural } from '../../lib/format';
import { printable } from '../../lib/printable';
import type { ChangedFile, ChangeList, Restored } from '../../lib/types';
import { ui } from '../../state/ui.svelte';

/** Why a file was left as it is. */
const WHY: Record<Restored['failed'][number]['why'], string> = {
  link: 'a link or a folder is in the way',
  readonly: 'it is protected',
  gone: 'it is gone',
  failed: 'it could not be written',
  occupied: 'a file that no checkpoint has is there',
  changed: 'it has changed meanwhile',
};
export const MOST_NAMED = 5;

export interface UndoRequest {
  title: string;
  /** The moment to go back to: a word of the API, or a checkpoint. */
  from: string;
  /** Only these are offered; null for all that differ from that moment. */
  only: ReadonlySet<string> | null;
  /** The end of the turn that is undone, to tell what changed after it; empty if nothing did. */
  end: string;
}

export class Undo {
  request = $state.raw<UndoRequest | null>(null);
  phase = $state<'looking' | 'ready' | 'working' | 'error'>('looking');
  error = $state('');
  files = $state.raw<readonly ChangedFile[]>([]);
  chosen = $state.raw<ReadonlySet<string>>(new Set());
  /** Those that changed again after the turn that is undone. */
  later = $state.raw<ReadonlySet<string>>(new Set());
  truncated = $state(false);
  /** What no checkpoint holds, without what is ignored: it stays as it is. */
  skipped = $state.raw<ChangeList['skipped']>([]);
  /** The other sessions on the same folder. */
  others = $state.raw<readonly string[]>([]);

  constructor(
    readonly session: string,
    /** Called before files are put back. */
    readonly onBegin: () => void,
    /** Called when that has ended. */
    readonly onDone: () => void,
  ) {}

  /** Shows what would be put back. Files that no turn of this session touched are there, but not chosen. */
  async ask(request: UndoRequest): Promise<void> {
    this.request = request;
    this.phase = 'looking';
    this.error = '';
    try {
      const [list, later] = await Promise.all([
        review.changes(this.session, request.from, 'now'),
        request.end ? review.changes(this.session, request.end, 'now') : null,
      ]);
      if (this.request !== request) return;
      const { only } = request;
      this.files = only ? list.files.filter(({ path }) => only.has(path)) : list.files;
      // One file that was asked for by name is meant, whoever changed it.
      this.chosen = new Set(this.files.filter(({ touched }) => touched || only?.size === 1).map(({ path }) => path));
      this.later = new Set(later?.files.map(({ path }) => path).filter((path) => this.files.some((file) => file.path === path)));
      this.truncated = list.truncated;
      this.skipped = list.skipped.filter(({ why }) => why !== 'ignored');
      this.others = list.others;
      this.phase = 'ready';
    } catch (error) {
      if (this.request !== request) return;
      this.phase = 'error';
      this.error = sentence(error);
    }
  }

  close(): void {
    if (this.phase !== 'working') this.request = null;
  }

  async run(): Promise<void> {
    const { request } = this;
    if (!request) return;
    const paths = this.files.filter(({ path }) => this.chosen.has(path)).flatMap(({ path, old_path: old }) => (old ? [old, path] : [path]));
    this.phase = 'working';
    try {
      await this.#restore(request.from, paths);
      this.request = null;
    } catch (error) {
      this.phase = 'error';
      this.error = sentence(error);
    }
    this.onDone();
  }

  /** Puts files back, and offers to undo that. */
  async #restore(checkpoint: string, paths: readonly string[]): Promise<void> {
    this.onBegin();
    const { checkpoint: before, restored, removed, failed } = await review.restore(this.session, checkpoint, paths);
    const parts = [
      restored.length > 0 && `put back ${plural(restored.length, 'file')}`,
      removed.length > 0 && `removed ${plural(removed.length, 'file')}`,
    ].filter((part) => part !== false);
    const text = parts.join(' and ') || 'nothing had to change';
    const run = (): void => {
      this.#restore(before, paths)
        .catch((error: unknown) => ui.toast(`Nothing was undone. ${sentence(error)}`, 'error'))
        .finally(this.onDone);
    };
    if (failed.length > 0) {
      const names = failed.slice(0, MOST_NAMED).map(({ path, why }) => `${printable(path)} (${WHY[why]})`);
      const more = failed.length > MOST_NAMED ? ` and ${failed.length - MOST_NAMED} more` : '';
      ui.toast(`Left as ${failed.length === 1 ? 'it is' : 'they are'}: ${names.join(', ')}${more}.`, 'error');
    }
    ui.toast(`${text.charAt(0).toUpperCase()}${text.slice(1)}.`, 'note', { label: 'Undo this', run });
  }
}
