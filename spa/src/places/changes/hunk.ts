/** Undoing one place that changed in a file: the file is written with the old lines there, and all others stay. */
import { sentence } from '../../lib/api';
import { filesApi } from '../../lib/api-files';
import { review } from '../../lib/api-review';
import { printable } from '../../lib/printable';
import type { FileVersions } from '../../lib/types';
import { ui } from '../../state/ui.svelte';
import { nameOf } from './change-tree';

/** The lines of one place that changed, counted from 0; the last one is not part of it. */
export interface Hunk {
  old: { from: number; to: number };
  now: { from: number; to: number };
}

const MARK = '\uFEFF';
const NO_TEXT = '\uFFFD';

/** Lines with their breaks, whichever they are. */
const linesOf = (text: string): string[] => text.match(/[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$/g) ?? [];

/** The text with the old lines of one place. */
export function withoutHunk(old: string, now: string, hunk: Hunk): string {
  const lines = linesOf(now);
  const before = linesOf(old).slice(hunk.old.from, hunk.old.to);
  lines.splice(hunk.now.from, hunk.now.to - hunk.now.from, ...before);
  return lines.join('');
}

/** Why a file cannot be written with one place undone; empty if it can. */
export function hindersHunks({ old, new: now }: FileVersions): string {
  return old.includes(NO_TEXT) || now.includes(NO_TEXT) ? 'Not all of this file is UTF-8 text. Undo the file as a whole.' : '';
}

/** Writes a file with one place undone, after a checkpoint. A file that has changed since it was shown stays as it is. */
export async function undoHunk(session: string, shown: FileVersions, hunk: Hunk, onDone: () => void): Promise<void> {
  const { path } = shown;
  const name = printable(nameOf(path));
  const hindrance = hindersHunks(shown);
  if (hindrance) {
    ui.toast(hindrance, 'error');
    return;
  }
  try {
    const current = await filesApi.readFile(session, path);
    // The browser takes a byte order mark off what it reads.
    const isSame = current?.text === (shown.new.startsWith(MARK) ? shown.new.slice(1) : shown.new);
    if (!current || !isSame) {
      ui.toast(`${name} has changed meanwhile: look at it again.`, 'error');
      onDone();
      return;
    }
    const { checkpoint } = await review.addCheckpoint(session, `before an undo in ${name}`.slice(0, 200));
    await filesApi.writeFile(session, path, withoutHunk(shown.old, shown.new, hunk), current.etag);
    const run = (): void => {
      review.restore(session, checkpoint, [path]).then(onDone, (error: unknown) => ui.toast(`Nothing was undone. ${sentence(error)}`, 'error'));
    };
    ui.toast(`Undid one change in ${name}.`, 'note', { label: 'Undo this', run });
  } catch (error) {
    ui.toast(`The change in ${name} was not undone. ${sentence(error)}`, 'error');
  }
  onDone();
}
