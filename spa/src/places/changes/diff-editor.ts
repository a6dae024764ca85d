/** Shows the difference of two texts with CodeMirror: side by side, in one column, or one text alone. */
import { standardKeymap } from '@codemirror/commands';
import { defaultHighlightStyle, syntaxHighlighting } from '@codemirror/language';
import { type Chunk, getChunks, MergeView, unifiedMergeView } from '@codemirror/merge';
import { Compartment, EditorState, type Extension, type Text } from '@codemirror/state';
import { drawSelection, EditorView, highlightActiveLine, highlightActiveLineGutter, keymap, lineNumbers } from '@codemirror/view';

import { highlight, languageOf, revealed } from '../files/code';
import { diffTheme } from './diff-theme';
import type { Hunk } from './hunk';
import { hunkButtons, hunkOf } from './hunk-buttons';
import { lineButtons } from './line-buttons';
import { compareTexts, cutLines } from './line-diff';

export interface DiffOptions {
  path: string;
  /** Null on the side where the file is not there. */
  old: string | null;
  new: string | null;
  layout: 'split' | 'unified';
  ignoreSpace: boolean;
  /** What stands between the lines of the new text. */
  between: Extension;
  /** Lines were chosen for a comment; without it there are none. */
  onLines: ((from: number, to: number) => void) | null;
  /** One place that changed is to be undone; without it there is no button. */
  onUndo: ((hunk: Hunk) => void) | null;
}

/** A removed block of more is not drawn in one column: all of it would be in the page at once. */
const MOST_REMOVED = { characters: 60_000, lines: 1_500 };
const COLLAPSE = { margin: 4, minSize: 8 };

const breaks = (text: string): string => text.replace(/\r\n?/g, '\n');

const isTooMuch = (old: string, { fromA, toA }: { fromA: number; toA: number }): boolean => {
  const removed = old.slice(fromA, toA);
  return removed.length > MOST_REMOVED.characters || removed.split('\n').length > MOST_REMOVED.lines;
};

export class DiffEditor {
  /** The editor of the new text, or of the only one. */
  readonly view: EditorView;
  /** One column was asked for, and would be too much for the page. */
  readonly fellBack: boolean = false;
  readonly #merge: MergeView | null = null;
  /** The text before, line by line as it is compared. */
  readonly #old: Text;
  readonly #onUndo: DiffOptions['onUndo'];

  constructor(element: HTMLElement, options: DiffOptions) {
    const { path, layout, ignoreSpace } = options;
    this.#onUndo = options.onUndo;
    const language = new Compartment();
    const common: Extension = [
      drawSelection(),
      EditorState.readOnly.of(true),
      EditorView.editable.of(false),
      EditorView.lineWrapping,
      keymap.of(standardKeymap),
      syntaxHighlighting(highlight),
      syntaxHighlighting(defaultHighlightStyle, { fallback: true }),
      language.of([]),
      revealed,
      diffTheme,
    ];
    const named = (name: string): Extension => EditorView.contentAttributes.of({ tabindex: '0', role: 'textbox', 'aria-multiline': 'true', 'aria-readonly': 'true', 'aria-label': name });
    const commentable: Extension = options.onLines
      ? [lineButtons(options.onLines), EditorView.editorAttributes.of({ class: 'cm-commentable' })]
      : lineNumbers();
    const undoable: Extension = options.onUndo ? hunkButtons((chunk) => this.#undo(chunk)) : [];
    const here: Extension = [commentable, undoable, highlightActiveLine(), highlightActiveLineGutter(), options.between, common];

    if (options.old === null || options.new === null) {
      this.#old = EditorState.create().doc;
      const side = options.new === null ? 'a' : 'b';
      const own = [here, named(`Text of ${path}`), EditorView.editorAttributes.of({ class: `cm-whole-${side}` })];
      this.view = new EditorView({ parent: element, doc: cutLines(breaks(options.new ?? options.old ?? '')), extensions: own });
    } else {
      const { old, new: newText, changes } = compareTexts(breaks(options.old), breaks(options.new), ignoreSpace);
      this.#old = EditorState.create({ doc: old }).doc;
      const diffConfig = { override: () => [...changes] };
      this.fellBack = layout === 'unified' && changes.some((change) => isTooMuch(old, change));
      if (layout === 'split' || this.fellBack) {
        this.#merge = new MergeView({
          parent: element,
          a: { doc: old, extensions: [lineNumbers(), common, named(`Old text of ${path}`)] },
          b: { doc: newText, extensions: [here, named(`New text of ${path}`)] },
          collapseUnchanged: COLLAPSE,
          diffConfig,
        });
        this.view = this.#merge.b;
      } else {
        const unified = unifiedMergeView({ original: old, mergeControls: false, collapseUnchanged: COLLAPSE, diffConfig });
        this.view = new EditorView({ parent: element, doc: newText, extensions: [unified, here, named(`Changes of ${path}`)] });
      }
    }
    void this.#colour(path, language);
  }

  /** How many places changed. */
  get hunks(): number {
    return this.#chunks.length;
  }

  /** Goes to the next place that changed, or to the one before (-1); false if there is none. */
  goToHunk(direction: 1 | -1): boolean {
    const { head } = this.view.state.selection.main;
    const chunks = this.#chunks;
    const chunk = direction > 0 ? chunks.find(({ fromB }) => fromB > head) : chunks.findLast(({ fromB }) => fromB < head);
    if (!chunk) return false;
    this.#show(chunk);
    return true;
  }

  /** Goes to the first place that changed, or to the last (-1). */
  goToEnd(direction: 1 | -1): void {
    const chunk = this.#chunks.at(direction > 0 ? 0 : -1);
    if (chunk) this.#show(chunk);
  }

  /** Asks for an undo of the place at the cursor. */
  undoHunk(): void {
    const { from, to } = this.view.state.doc.lineAt(this.view.state.selection.main.head);
    const chunk = this.#chunks.find(({ fromB, toB }) => fromB <= to && Math.max(toB, fromB + 1) > from);
    if (chunk) this.#undo(chunk);
  }

  /** The lines that are selected, or the one of the cursor, counted from 1. */
  get selectedLines(): [number, number] {
    const { doc, selection } = this.view.state;
    const { from, to, empty } = selection.main;
    const last = doc.lineAt(to);
    // A selection that ends at the start of a line does not reach into it.
    const end = !empty && last.from === to && last.number > 1 ? last.number - 1 : last.number;
    return [doc.lineAt(from).number, Math.max(end, doc.lineAt(from).number)];
  }

  /** How far one has scrolled, in pixels. */
  get place(): number {
    return this.#scroller.scrollTop;
  }

  goTo(place: number): void {
    // The heights of what is in sight are known only after a measurement.
    this.view.requestMeasure({ read: () => undefined, write: () => (this.#scroller.scrollTop = place) });
  }

  get #scroller(): HTMLElement {
    return this.#merge?.dom ?? this.view.scrollDOM;
  }

  destroy(): void {
    if (this.#merge) this.#merge.destroy();
    else this.view.destroy();
  }

  get #chunks(): readonly Chunk[] {
    return getChunks(this.view.state)?.chunks ?? [];
  }

  #undo(chunk: Pick<Chunk, 'fromA' | 'toA' | 'fromB' | 'toB'>): void {
    this.#onUndo?.(hunkOf(this.#old, this.view.state.doc, chunk));
  }

  #show(chunk: Chunk): void {
    const anchor = Math.min(chunk.fromB, this.view.state.doc.length);
    this.view.dispatch({ selection: { anchor }, effects: EditorView.scrollIntoView(anchor, { y: 'center' }) });
  }

  async #colour(path: string, language: Compartment): Promise<void> {
    const extension = await languageOf(path)?.();
    if (!extension) return;
    for (const view of this.#merge ? [this.#merge.a, this.#merge.b] : [this.view])
      view.dispatch({ effects: language.reconfigure(extension) });
  }
}
