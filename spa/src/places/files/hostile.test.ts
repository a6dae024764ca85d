// @vitest-environment happy-dom
import { EditorView } from '@codemirror/view';
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, expect, it, vi } from 'vitest';

import { fakeServer, someSession } from '../../test/fakes';
import { DiffEditor } from '../changes/diff-editor';
import FileHead from './FileHead.svelte';
import FilesPane from './FilesPane.svelte';
import { openEditor } from './editor';

const TURNED = 'a\u202etxt.exe';
const SHOWN = 'a\ufffdtxt.exe';

let view: { destroy: () => void } | null = null;

afterEach(() => {
  view?.destroy();
  view = null;
  cleanup();
  document.body.replaceChildren();
  vi.unstubAllGlobals();
});

it('shows what turns or hides a part of a file name, in the list of files', async () => {
  fakeServer(() => ({ json: { path: '', entries: [{ name: TURNED, type: 'file', size: 3, modified: '' }] } }));
  render(FilesPane, { session: someSession({ id: 's', status: 'running' }), path: '', visible: true });
  const row = await screen.findByRole('treeitem');
  expect(row.textContent.trim()).toBe(SHOWN);
  expect(row.title).toContain(SHOWN);
});

it('shows it above an open file', () => {
  const { container } = render(FileHead, { path: `b\u202e/${TURNED}`, onback: () => undefined, children: (() => undefined) as never });
  expect(container.querySelector('.path')?.textContent.trim()).toBe(`b\ufffd/${SHOWN}`);
  expect(container.querySelector<HTMLElement>('.path')?.title).toBe(`b\ufffd/${SHOWN}`);
});

const HIDDEN = ['\u202e', '\u202a', '\u2066', '\u2068', '\u200b', '\u2060', '\u{e0041}', '\u{e0100}', '\u0000'];

it.each(HIDDEN)('reveals a character that nobody sees in a file (%j)', (hidden) => {
  const editor = openEditor(document.body, { path: 'a.txt', text: `a${hidden}b`, onChange: () => undefined });
  view = editor;
  expect(editor.dom.querySelectorAll('.cm-specialChar')).toHaveLength(1);
  expect(editor.state.doc.toString()).toBe(`a${hidden}b`);
});

it.each(['split', 'unified'] as const)('reveals it in the changes, %s', (layout) => {
  const nothing = { onLines: null, onUndo: null, between: EditorView.theme({}) };
  const diff = new DiffEditor(document.body, { path: 'a', old: 'a', new: 'a\u202eb', layout, ignoreSpace: false, ...nothing });
  view = diff;
  expect(diff.view.dom.querySelectorAll('.cm-specialChar')).toHaveLength(1);
});

it.each(['é', '👩‍👩‍👧', 'שלום', '❤️'])('leaves letters and signs as they are: %s', (text) => {
  const editor = openEditor(document.body, { path: 'a.txt', text, onChange: () => undefined });
  view = editor;
  expect(editor.dom.querySelectorAll('.cm-specialChar')).toHaveLength(0);
});
