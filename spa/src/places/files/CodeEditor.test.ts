// @vitest-environment happy-dom
import { EditorView } from '@codemirror/view';
import { cleanup, render } from '@testing-library/svelte';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { preferences } from '../../state/preferences.svelte';
import { fakeServer } from '../../test/fakes';
import CodeEditor from './CodeEditor.svelte';
import { OpenFile } from './open-file.svelte';

/** The container's file. */
let disk: { text: string; version: number };
let file: OpenFile;
let answer: () => Promise<void>;

const etag = () => `"${disk.version}"`;

beforeEach(async () => {
  disk = { text: 'one', version: 1 };
  answer = () => Promise.resolve();
  fakeServer(async ({ method, body }) => {
    await answer();
    if (method === 'GET') return { text: disk.text, headers: { ETag: etag() } };
    disk = { text: body as string, version: disk.version + 1 };
    return { status: 204, headers: { ETag: etag() } };
  });
  file = new OpenFile('s', 'a.txt');
  await file.load();
});

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

function editor(): EditorView {
  const view = EditorView.findFromDOM(document.body);
  if (!view) throw new Error('there is no editor');
  return view;
}

const shown = (): string => editor().state.doc.toString();

function type(text: string): void {
  const view = editor();
  view.dispatch({ changes: { from: view.state.doc.length, insert: text } });
  flushSync();
}

it('shows the file, and takes down what is typed', () => {
  render(CodeEditor, { file });
  type(' two');
  expect([shown(), file.text, file.dirty]).toEqual(['one two', 'one two', true]);
});

it('keeps what is typed while a save is under way', async () => {
  render(CodeEditor, { file });
  type(' two');
  let arrive = (): void => undefined;
  answer = () => new Promise((resolve) => (arrive = resolve));
  const saving = file.save();
  type(' three');
  arrive();
  await saving;
  flushSync();
  expect([disk.text, shown(), file.dirty]).toEqual(['one two', 'one two three', true]);
});

it('shows what was typed and not saved when it is opened again', () => {
  const { unmount } = render(CodeEditor, { file });
  type(' two');
  unmount();
  render(CodeEditor, { file });
  expect([shown(), file.text]).toEqual(['one two', 'one two']);
});

it('shows the agent’s version when it is taken', async () => {
  render(CodeEditor, { file });
  type(' two');
  disk = { text: 'agent', version: 2 };
  await file.check();
  file.takeTheirs();
  flushSync();
  expect([shown(), file.dirty]).toEqual(['agent', false]);
});

it('has the chosen font, and follows it', () => {
  const { container } = render(CodeEditor, { file });
  const font = (): string => container.querySelector<HTMLElement>('.editor')?.style.getPropertyValue('--editor-font') ?? '';
  expect(font()).toBe('var(--mono)');
  preferences.fontFamily = 'Iosevka';
  flushSync();
  expect(font()).toBe('"Iosevka", var(--mono)');
  preferences.fontFamily = '';
});
