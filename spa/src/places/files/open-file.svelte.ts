/** One file of the workspace in the editor, and what the agent does to it meanwhile. */
import { ApiError, sentence } from '../../lib/api';
import { filesApi } from '../../lib/api-files';
import { keepText, keptText } from './kept-text';

export type FilePhase = 'loading' | 'ready' | 'saving' | 'error';

/** Too large, or no text: what the editor will not show another time either (413, 415). */
const isUnfit = (error: unknown): boolean => error instanceof ApiError && (error.status === 413 || error.status === 415);
const isGone = (error: unknown): boolean => error instanceof ApiError && error.status === 404;

export class OpenFile {
  phase = $state<FilePhase>('loading');
  error = $state('');
  /** The file is none for an editor: trying again is in vain. */
  unfit = $state(false);
  /** The text that the server has, as far as the page knows; the editor's text may differ. */
  saved = $state('');
  text = $state('');
  /** The server has another version than the one that was opened; null while it has not. */
  theirs = $state.raw<{ text: string; etag: string } | null>(null);
  /** It was deleted in the container; saving makes it anew. */
  gone = $state(false);
  /** Counts the replacements of the text from outside of the editor. The editor takes over `text` at each of them. */
  replaced = $state(0);
  #etag = '';
  #checking = false;
  /** Counts the saves that were begun. */
  #writes = 0;

  readonly dirty: boolean = $derived(this.text !== this.saved);

  constructor(
    readonly session: string,
    readonly path: string,
  ) {}

  async load(): Promise<void> {
    this.phase = 'loading';
    this.error = '';
    try {
      const content = await filesApi.readFile(this.session, this.path);
      if (content) this.#take(content.text, content.etag);
      this.#restore();
    } catch (error) {
      this.phase = 'error';
      this.unfit = isUnfit(error);
      this.error = sentence(error);
    }
  }

  /**
   * Looks for a newer version: takes it if nothing was typed here, else leaves the choice to the person. One that is gone is
   * looked for only when the person comes back to it (`again`): each time costs an error in the browser's console.
   */
  async check(again = false): Promise<void> {
    if (this.phase !== 'ready' || this.#checking || (this.gone && !again)) return;
    this.#checking = true;
    const writes = this.#writes;
    try {
      const content = await filesApi.readFile(this.session, this.path, this.theirs?.etag ?? this.#etag);
      // A save that began meanwhile knows better than this answer.
      if (writes !== this.#writes) return;
      this.gone = false;
      if (!content) return;
      if (this.dirty && content.text !== this.text) this.theirs = content;
      else this.#take(content.text, content.etag);
    } catch (error) {
      if (isGone(error) && writes === this.#writes) this.gone = true;
    } finally {
      this.#checking = false;
    }
  }

  /** Saves over the version that was opened, or anew if it is gone. If there is another one, nothing is overwritten. */
  async save(): Promise<void> {
    await this.#write(this.gone ? null : this.#etag);
  }

  /** Keeps what is not saved in this browser, and nothing once it is. */
  keep(): void {
    if (this.phase === 'loading' || this.phase === 'error') return;
    keepText(this.session, this.dirty ? { path: this.path, text: this.text, etag: this.#etag } : null);
  }

  /** The person wants none of what is not saved. */
  forget(): void {
    keepText(this.session, null);
  }

  takeTheirs(): void {
    if (this.theirs) this.#take(this.theirs.text, this.theirs.etag);
  }

  /** Overwrites the version that the person was told of, and no later one. */
  async keepMine(): Promise<void> {
    if (this.theirs) await this.#write(this.theirs.etag);
  }

  /** Takes up what was typed before the page was dropped. The file may have changed since. */
  #restore(): void {
    const kept = keptText(this.session, this.path);
    if (!kept || kept.text === this.saved) return;
    if (kept.etag !== this.#etag) this.theirs = { text: this.saved, etag: this.#etag };
    this.text = kept.text;
    this.#etag = kept.etag;
    this.replaced += 1;
  }

  async #write(etag: string | null): Promise<void> {
    if (this.phase !== 'ready') return;
    this.#writes += 1;
    const text = this.text;
    this.phase = 'saving';
    this.error = '';
    try {
      this.#etag = await filesApi.writeFile(this.session, this.path, text, etag);
      this.saved = text;
      this.theirs = null;
      this.gone = false;
    } catch (error) {
      if (error instanceof ApiError && error.status === 412) await this.#fetchTheirs();
      else this.error = sentence(error);
    }
    this.phase = 'ready';
  }

  async #fetchTheirs(): Promise<void> {
    try {
      this.theirs = await filesApi.readFile(this.session, this.path);
      this.gone = false;
    } catch (error) {
      if (isGone(error)) {
        this.gone = true;
        return;
      }
      this.error = `The file changed in the container. ${sentence(error)}`;
    }
  }

  #take(text: string, etag: string): void {
    this.saved = this.text = text;
    this.#etag = etag;
    this.theirs = null;
    this.error = '';
    this.phase = 'ready';
    this.replaced += 1;
  }
}
