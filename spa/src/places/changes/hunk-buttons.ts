/** At each place that changed, a button that undoes it. */
import { getChunks } from '@codemirror/merge';
import type { Text } from '@codemirror/state';
import { type Extension } from '@codemirror/state';
import { Decoration, type DecorationSet, EditorView, WidgetType } from '@codemirror/view';

import type { Hunk } from './hunk';

interface Range {
  fromA: number;
  toA: number;
  fromB: number;
  toB: number;
}

/** The lines of a chunk's side. Its end is behind the break of its last line, and may be behind the end of the text. */
function lines(doc: Text, from: number, to: number): { from: number; to: number } {
  const first = from > doc.length ? doc.lines : doc.lineAt(from).number - 1;
  return { from: first, to: from === to ? first : doc.lineAt(Math.min(to - 1, doc.length)).number };
}

export const hunkOf = (old: Text, now: Text, { fromA, toA, fromB, toB }: Range): Hunk => ({
  old: lines(old, fromA, toA),
  now: lines(now, fromB, toB),
});

class UndoButton extends WidgetType {
  constructor(
    readonly range: Range,
    readonly onUndo: (range: Range) => void,
  ) {
    super();
  }

  override eq(other: UndoButton): boolean {
    return other.range === this.range;
  }

  override toDOM(): HTMLElement {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'cm-hunk-undo';
    // Its word is the style sheet's: it is no part of the text, and is not copied with it.
    button.setAttribute('aria-label', 'Undo this change');
    button.addEventListener('click', () => this.onUndo(this.range));
    return button;
  }

  /** Its keys and clicks are its own. */
  override ignoreEvent(): boolean {
    return true;
  }
}

export function hunkButtons(onUndo: (range: Range) => void): Extension {
  const drawn = new WeakMap<readonly Range[], DecorationSet>();
  return EditorView.decorations.of((view) => {
    const chunks = getChunks(view.state)?.chunks;
    if (!chunks) return Decoration.none;
    const known = drawn.get(chunks);
    if (known) return known;
    const { doc } = view.state;
    const at = ({ fromB }: Range): number => doc.lineAt(Math.min(fromB, doc.length)).from;
    const made = Decoration.set(chunks.map((chunk) => Decoration.widget({ widget: new UndoButton(chunk, onUndo), side: -1 }).range(at(chunk))), true);
    drawn.set(chunks, made);
    return made;
  });
}
