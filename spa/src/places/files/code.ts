/** How code looks: the languages, each a chunk of its own, and the colours. The editor and the differences share it. */
import { HighlightStyle, LanguageSupport, StreamLanguage } from '@codemirror/language';
import type { Extension } from '@codemirror/state';
import { EditorView, highlightSpecialChars } from '@codemirror/view';
import { tags } from '@lezer/highlight';

export type Loader = () => Promise<Extension>;

/**
 * Characters that nobody sees as signs. An agent wrote the text: some turn what is around them (CVE-2021-42574), so that a
 * person reads other code than runs, and a text can hide between two letters. Those that belong to letters and emoji are left.
 */
export const revealed: Extension = [
  highlightSpecialChars({ addSpecialChars: /[\u202a-\u202e\u2060-\u2069\u{e0000}-\u{e01ef}]/gu }),
  EditorView.theme({ '.cm-specialChar': { color: 'var(--danger)' } }),
];

const legacy = async (parser: Promise<Parameters<typeof StreamLanguage.define>[0]>): Promise<Extension> =>
  new LanguageSupport(StreamLanguage.define(await parser));

const javascript = (options: { jsx?: boolean; typescript?: boolean }): Loader => async () =>
  (await import('@codemirror/lang-javascript')).javascript(options);
// One chunk for all of them: a grammar of its own for each takes ten times as many bytes and gives the same colours.
const clike = (name: 'c' | 'cpp' | 'csharp' | 'java' | 'kotlin'): Loader => () =>
  legacy(import('@codemirror/legacy-modes/mode/clike').then((modes) => modes[name]));
const cpp = clike('cpp');
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
  rs: () => legacy(import('@codemirror/legacy-modes/mode/rust').then((mode) => mode.rust)),
  go: () => legacy(import('@codemirror/legacy-modes/mode/go').then((mode) => mode.go)),
  c: clike('c'),
  h: cpp,
  cc: cpp,
  cpp,
  hpp: cpp,
  java: clike('java'),
  kt: clike('kotlin'),
  cs: clike('csharp'),
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

/** What fetches the language of a file, by its name; undefined for plain text. */
export function languageOf(path: string): Loader | undefined {
  const name = path.slice(path.lastIndexOf('/') + 1).toLowerCase();
  return BY_ENDING[name.slice(name.lastIndexOf('.') + 1)];
}

/** Colours by variables of the page, so that both themes come for free. */
export const highlight = HighlightStyle.define([
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

/** The sheet, the lines and the selection. */
export const sheet = EditorView.theme({
  '&': { height: '100%', backgroundColor: 'var(--surface)', color: 'var(--text)' },
  '.cm-scroller': { fontFamily: 'var(--editor-font)', fontSize: 'var(--editor-size)', lineHeight: '1.54' },
  '.cm-gutters': { backgroundColor: 'var(--surface)', color: 'var(--muted)', border: 'none', paddingLeft: '8px' },
  '.cm-activeLine, .cm-activeLineGutter': { backgroundColor: 'var(--hover)' },
  '&.cm-focused': { outline: 'none' },
  '.cm-cursor': { borderLeftColor: 'var(--accent)' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground': {
    backgroundColor: 'var(--code-selection)',
  },
});
