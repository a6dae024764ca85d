/** The ways from one changed file, and one place that changed, to the next. */
import type { ChangedFile } from '../../lib/types';
import { changeRows } from './change-tree';
import type { Changes } from './changes.svelte';
import type { DiffEditor } from './diff-editor';
import { nextUnviewed, tick } from './viewed';

export class Steps {
  /** At which end a file that the keys lead to is shown. */
  landing: 1 | -1 = 1;

  constructor(
    readonly changes: Changes,
    /** The path that is open. */
    readonly path: () => string,
    readonly go: (path: string, replace: boolean) => void,
    readonly editor: () => DiffEditor | undefined,
  ) {}

  /** The paths in the order of the tree, folded or not. */
  get order(): readonly string[] {
    return changeRows(this.changes.files, new Set()).flatMap(({ key, file }) => (file ? [key] : []));
  }

  /** The next file, or the one before (-1). */
  turn(direction: 1 | -1): void {
    this.landing = 1;
    this.#step(direction);
  }

  /** The next place that changed, in this file or the one after it. */
  hunk(direction: 1 | -1): void {
    if (this.editor()?.goToHunk(direction)) return;
    this.landing = direction;
    this.#step(direction);
  }

  /** A file that is ticked as viewed makes room for the next one that is not. */
  view(file: ChangedFile, viewed: boolean): void {
    tick(this.changes.session, file, viewed);
    if (!viewed) return;
    const next = nextUnviewed(this.changes.session, this.order, file.path, this.changes.files);
    this.landing = 1;
    if (next !== undefined) this.go(next, true);
  }

  #step(direction: 1 | -1): void {
    const { order } = this;
    const at = order.indexOf(this.path());
    const path = at < 0 ? order.at(direction > 0 ? 0 : -1) : order[at + direction];
    if (path !== undefined) this.go(path, at >= 0);
  }
}
