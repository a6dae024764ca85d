/** Builds the CodeMirror editor. Only the Files tab loads it. */
import { closeBrackets, closeBracketsKeymap } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap, indentWithTab } from '@codemirror/commands';
import {
  bracketMatching,
  defaultHighlightStyle,
  HighlightStyle,
  indentOnInput,
  indentUnit,
  LanguageSupport,
  StreamLanguage,
  syntaxHighlighting,
} from '@codemirror/language';
import { highlightSelectionMatches, search, searchKeymap } from '@codemirror/search';
import { Compartment, EditorState, type Extension } from '@codemirror/state';
import { drawSelection, EditorView, highlightActiveLine, highlightActiveLineGutter, keymap, lineNumbers } from '@codemirror/view';
import { tags } from '@lezer/highlight';

type Loader = () => Promise<Extension>;

const legacy = async (parser: Promise<Parameters<typeof StreamLanguage.define>[0]>): Promise<Extension> =>
  new LanguageSupport(StreamLanguage.define(await parser));

const javascript = (options: { jsx?: boolean; typescript?: boolean }): Loader => async () =>
  (await import('@codemirror/lang-javascript')).javascript(options);
const cpp: Loader = async () => (await import('@codemirror/lang-cpp')).cpp();
const shell: Loader = () => legacy(import('@codemirror/legacy-modes/mode/shell').then((mode) => mode.shell));
const yaml: Loader = async () => (await import('@codemirror/lang-yaml')).yaml();
const html: Loader = async () => (await import('@codemirror/lang-html')).html();
const css: Loader = async () => (await import('@codemirror/lang-css')).css();

/** Each language is a chunk of its own, by file ending. */
const BY_ENDING: Record<string, Loader> = {
  js: javascript({ jsx: true }),
  mjs: javascript({}),
  cjs: javascript({}),
  jsx: javascript({ jsx: true }),
  ts: javascript({ typescript: true }),
  mts: javascript({ typescript: true }),
  tsx: javascript({ jsx: true, typescript: true }),
  py: async () => (await import('@codemirror/lang-python')).python(),
  json: async () => (await import('@codemirror/lang-json')).json(),
  md: async () => (await import('@codemirror/lang-markdown')).markdown(),
  html,
  htm: html,
  svelte: html,
  vue: html,
  css,
  scss: css,
  rs: async () => (await import('@codemirror/lang-rust')).rust(),
  go: async () => (await import('@codemirror/lang-go')).go(),
  c: cpp,
  h: cpp,
  cc: cpp,
  cpp,
  hpp: cpp,
  java: async () => (await import('@codemirror/lang-java')).java(),
  kt: () => legacy(import('@codemirror/legacy-modes/mode/clike').then((mode) => mode.kotlin)),
  cs: () => legacy(import('@codemirror/legacy-modes/mode/clike').then((mode) => mode.csharp)),
  php: async () => (await import('@codemirror/lang-php')).php(),
  sql: async () => (await import('@codemirror/lang-sql')).sql(),
  xml: async () => (await import('@codemirror/lang-xml')).xml(),
  svg: async () => (await import('@codemirror/lang-xml')).xml(),
  yaml,
  yml: yaml,
  toml: () => legacy(import('@codemirror/legacy-modes/mode/toml').then((mode) => mode.toml)),
  sh: shell,
  bash: shell,
  zsh: shell,
  rb: () => legacy(import('@codemirror/legacy-modes/mode/ruby').then((mode) => mode.ruby)),
  lua: () => legacy(import('@codemirror/legacy-modes/mode/lua').then((mode) => mode.lua)),
  swift: () => legacy(import('@codemirror/legacy-modes/mode/swift').then((mode) => mode.swift)),
  dockerfile: () => legacy(import('@codemirror/legacy-modes/mode/dockerfile').then((mode) => mode.dockerFile)),
};

function languageOf(path: string): Loader | undefined {
  const name = path.slice(path.lastIndexOf('/') + 1).toLowerCase();
  return BY_ENDING[name.slice(name.lastIndexOf('.') + 1)];
}

/** Colours by variables of the page, so that both themes come for free. */
const highlight = HighlightStyle.define([
  { tag: [tags.keyword, tags.modifier, tags.operatorKeyword], color: 'var(--code-keyword)' },
  { tag: [tags.string, tags.special(tags.string), tags.regexp], color: 'var(--code-string)' },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], color: 'var(--code-number)' },
  { tag: [tags.comment, tags.meta], color: 'var(--muted)' },
  { tag: [tags.function(tags.variableName), tags.function(tags.propertyName), tags.heading], color: 'var(--code-function)' },
  { tag: [tags.typeName, tags.className, tags.tagName, tags.namespace], color: 'var(--code-type)' },
  { tag: [tags.propertyName, tags.attributeName], color: 'var(--code-property)' },
  { tag: tags.heading, fontWeight: '600' },
  { tag: tags.strong, fontWeight: '600' },
  { tag: tags.emphasis, fontStyle: 'italic' },
  { tag: [tags.link, tags.url], color: 'var(--accent)' },
  { tag: tags.invalid, color: 'var(--danger)' },
]);

const theme = EditorView.theme({
  '&': { height: '100%', backgroundColor: 'var(--surface)', color: 'var(--text)' },
  '.cm-scroller': { fontFamily: 'var(--editor-font)', fontSize: 'var(--editor-size)', lineHeight: '1.54' },
  '.cm-gutters': { backgroundColor: 'var(--surface)', color: 'var(--muted)', border: 'none', paddingLeft: '8px' },
  '.cm-activeLine, .cm-activeLineGutter': { backgroundColor: 'var(--hover)' },
  '&.cm-focused': { outline: 'none' },
  '.cm-cursor': { borderLeftColor: 'var(--accent)' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground': {
    backgroundColor: 'var(--code-selection)',
  },
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
