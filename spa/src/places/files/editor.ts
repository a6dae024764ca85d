/** Builds the CodeMirror editor. Only the Files tab loads it. */
import { closeBrackets, closeBracketsKeymap } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap, indentWithTab } from '@codemirror/commands';
import { bracketMatching, defaultHighlightStyle, indentOnInput, indentUnit, syntaxHighlighting } from '@codemirror/language';
import { highlightSelectionMatches, search, searchKeymap } from '@codemirror/search';
import { Compartment, EditorState } from '@codemirror/state';
import { drawSelection, EditorView, highlightActiveLine, highlightActiveLineGutter, keymap, lineNumbers } from '@codemirror/view';

import { highlight, languageOf, revealed, sheet } from './code';

const theme = EditorView.theme({
  '.cm-selectionMatch': { backgroundColor: 'var(--active)' },
  '.cm-matchingBracket': { backgroundColor: 'var(--active)' },
  '.cm-panels': { backgroundColor: 'var(--bg)', color: 'var(--text)', borderColor: 'var(--line)', fontFamily: 'var(--sans)' },
  '.cm-panels.cm-panels-top': { borderBottom: '1px solid var(--line)' },
  '.cm-panel.cm-search': {
    display: 'flex',
    flexWrap: 'wrap',
    alignItems: 'center',
    gap: '6px',
    padding: '8px 44px 8px 16px',
    fontSize: 'var(--fs-small)',
  },
  '.cm-panel.cm-search br': { flexBasis: '100%', content: '""' },
  '.cm-panel.cm-search label': { display: 'flex', alignItems: 'center', gap: '4px', fontSize: 'inherit', whiteSpace: 'nowrap' },
  '.cm-panel.cm-search input, .cm-panel.cm-search button': { margin: '0', fontSize: 'inherit' },
  '.cm-panel.cm-search input[type=checkbox]': { accentColor: 'var(--accent-fill)' },
  '.cm-panel.cm-search .cm-textfield': {
    flex: '1 1 200px',
    maxWidth: '320px',
    height: '28px',
    padding: '0 8px',
    border: '1px solid var(--line-field)',
    borderRadius: 'var(--radius)',
    backgroundColor: 'var(--surface)',
    fontFamily: 'var(--mono)',
  },
  '.cm-panel.cm-search .cm-button': {
    height: '28px',
    padding: '0 10px',
    border: '1px solid var(--line-strong)',
    borderRadius: 'var(--radius)',
    background: 'var(--surface)',
  },
  '.cm-panel.cm-search .cm-button:hover': { borderColor: 'var(--muted)' },
  '.cm-panel.cm-search [name=close]': {
    top: '6px',
    right: '8px',
    width: 'var(--hit)',
    height: 'var(--hit)',
    borderRadius: 'var(--radius)',
    color: 'var(--muted)',
    fontSize: '18px',
  },
  '.cm-panel.cm-search [name=close]:hover': { backgroundColor: 'var(--hover)', color: 'var(--text)' },
  '.cm-searchMatch': { backgroundColor: 'var(--warn-soft)', outline: '1px solid var(--warn)' },
  '.cm-searchMatch-selected': { backgroundColor: 'var(--match)' },
});

export interface EditorOptions {
  path: string;
  text: string;
  onChange: (text: string) => void;
}

/** Shows the editor in the element, which has `--editor-font` and `--editor-size`. The caller destroys it. */
export function openEditor(element: HTMLElement, { path, text, onChange }: EditorOptions): EditorView {
  const language = new Compartment();
  const view = new EditorView({
    parent: element,
    state: EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(),
        highlightActiveLine(),
        highlightActiveLineGutter(),
        drawSelection(),
        history(),
        indentOnInput(),
        indentUnit.of(indentOf(text)),
        bracketMatching(),
        closeBrackets(),
        highlightSelectionMatches(),
        search({ top: true }),
        syntaxHighlighting(highlight),
        syntaxHighlighting(defaultHighlightStyle, { fallback: true }),
        keymap.of([...closeBracketsKeymap, ...defaultKeymap, ...searchKeymap, ...historyKeymap, indentWithTab]),
        language.of([]),
        revealed,
        sheet,
        theme,
        EditorView.contentAttributes.of({ 'aria-label': `Text of ${path}` }),
        EditorState.lineSeparator.of(text.includes('\r\n') ? '\r\n' : '\n'),
        EditorView.updateListener.of((update) => {
          if (update.docChanged) onChange(textOf(update.view));
        }),
      ],
    }),
  });
  void languageOf(path)?.().then((extension) => view.dispatch({ effects: language.reconfigure(extension) }));
  return view;
}

export function textOf(view: EditorView): string {
  return view.state.sliceDoc();
}

/** Puts another text in, and keeps the cursor as near as it can. */
export function replaceText(view: EditorView, text: string): void {
  if (text === textOf(view)) return;
  const anchor = Math.min(view.state.selection.main.anchor, text.length);
  view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text }, selection: { anchor } });
}

/** The file's own indentation: its first indented line's. */
function indentOf(text: string): string {
  const first = /^(\t| {2,8})\S/m.exec(text)?.[1];
  return first ?? '  ';
}
