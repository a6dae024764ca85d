/** What a session changed: the list of files between two moments, and the texts of the file that is shown. */
import { sentence } from '../../lib/api';
import { review } from '../../lib/api-review';
import type { Appeared, ChangedFile, ChangeList, Checkpoint, FileVersions } from '../../lib/types';
import { type Address, SINCE_START } from './address';

export class Changes {
  phase = $state<'loading' | 'ready' | 'error'>('loading');
  error = $state('');
  files = $state.raw<readonly ChangedFile[]>([]);
  /** What the list is of. */
  scope = $state.raw<Pick<Address, 'from' | 'to'>>(SINCE_START);
  /** The other sessions on the same folder. */
  others = $state.raw<readonly string[]>([]);
  /** Why the list is not of now; empty if it is. */
  stale = $state('');
  truncated = $state(false);
  /** What no checkpoint holds. */
  skipped = $state.raw<ChangeList['skipped']>([]);
  skippedTruncated = $state(false);
  /** What was not there at the start, and runs on the host. */
  appeared = $state.raw<readonly Appeared[]>([]);
  appearedTruncated = $state(false);
  /** The list is being fetched, while an older one is shown. */
  busy = $state(false);
  checkpoints = $state.raw<readonly Checkpoint[]>([]);
  checkpointsError = $state('');
  file = $state.raw<FileVersions | null>(null);
  fileError = $state('');

  #asked: Pick<Address, 'from' | 'to'> = SINCE_START;
  /** Counts the questions: an answer to any but the last one comes too late. */
  #turn = 0;
  #fileTurn = 0;
  /** Somebody asked for another look while one was under way. */
  #again = false;
  #held = false;
  /** The look that began after the last change by this page. */
  #freshTurn = 0;

  constructor(readonly session: string) {}

  find(path: string): ChangedFile | undefined {
    return this.files.find((file) => file.path === path);
  }

  /** This page is about to change files: until the next `look` that begins afresh, no file is asked for. It may be none. */
  hold(): void {
    this.#held = true;
    this.#freshTurn = Number.POSITIVE_INFINITY;
  }

  /**
   * Fetches the list of files between two moments. What was shown stays until the answer is there. `afresh`: an answer that
   * is on its way is out of date.
   */
  async look({ from, to }: Pick<Address, 'from' | 'to'>, afresh = false): Promise<void> {
    const isAnotherList = from !== this.#asked.from || to !== this.#asked.to;
    // A look that takes longer than the time between two is not given up for the next one: it would never end.
    if (this.busy && !isAnotherList && !afresh) {
      this.#again = true;
      return;
    }
    this.#asked = { from, to };
    if (isAnotherList || this.phase === 'error') this.phase = 'loading';
    const turn = (this.#turn += 1);
    if (afresh) this.#freshTurn = turn;
    this.busy = true;
    do await this.#fetch(turn);
    while (turn === this.#turn && this.#isAskedAgain());
    if (turn === this.#turn) this.busy = false;
  }

  async #fetch(turn: number): Promise<void> {
    const { from, to } = this.#asked;
    this.#again = false;
    try {
      const answer = await review.changes(this.session, from, to);
      if (turn !== this.#turn) return;
      this.#release(turn);
      this.files = answer.files;
      this.scope = { from, to };
      this.others = answer.others;
      this.stale = answer.stale;
      this.truncated = answer.truncated;
      this.skipped = answer.skipped;
      this.skippedTruncated = answer.skipped_truncated;
      this.appeared = answer.appeared;
      this.appearedTruncated = answer.appeared_truncated;
      this.phase = 'ready';
      this.error = '';
    } catch (error) {
      if (turn !== this.#turn) return;
      this.#release(turn);
      this.error = sentence(error);
      // A list that is on the screen stays there when one look fails.
      if (this.phase === 'loading') this.phase = 'error';
    }
  }

  /** A list that was asked for after the change is there. */
  #release(turn: number): void {
    if (turn >= this.#freshTurn) this.#held = false;
  }

  #isAskedAgain(): boolean {
    return this.#again;
  }

  async lookAtCheckpoints(): Promise<void> {
    try {
      this.checkpoints = await review.checkpoints(this.session);
      this.checkpointsError = '';
    } catch (error) {
      this.checkpointsError = sentence(error);
    }
  }

  /** Fetches the texts of a file; none for `''`. Those that are shown stay, unless there are others. */
  async open(path: string): Promise<void> {
    if (this.#held && path) return;
    const turn = (this.#fileTurn += 1);
    this.fileError = '';
    if (this.file?.path !== path) this.file = null;
    if (!path) return;
    try {
      const file = await review.file(this.session, path, this.scope.from, this.scope.to);
      if (turn !== this.#fileTurn) return;
      if (JSON.stringify(file) !== JSON.stringify(this.file)) this.file = file;
    } catch (error) {
      if (turn === this.#fileTurn) this.fileError = sentence(error);
    }
  }
}
