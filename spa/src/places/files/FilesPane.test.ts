// @vitest-environment happy-dom
import { EditorView } from '@codemirror/view';
import { cleanup, render, screen } from '@testing-library/svelte';
import { tick } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { router } from '../../lib/router.svelte';
import type { Session, SessionStatus } from '../../lib/types';
import { ui } from '../../state/ui.svelte';
import { fakeServer, type Reply, someSession } from '../../test/fakes';
import FilesPane from './FilesPane.svelte';

const MARKDOWN = '# Totals\n\n<b>bold</b>\n';

let asked: string[];
let picture: Reply;

beforeEach(() => {
  asked = [];
  picture = { text: 'bytes' };
  fakeServer(({ path }) => {
    asked.push(path);
    if (path.includes('/files/image')) return picture;
    if (path.includes('/files/content')) return { text: path.endsWith('.md') ? MARKDOWN : 'one', headers: { ETag: '"1"' } };
    return { json: { path: '', entries: [{ name: 'a.txt', type: 'file', size: 3, modified: '' }] } };
  });
  router.go('/sessions/s/files?path=a.txt');
});

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

const session = (status: SessionStatus): Session => someSession({ id: 's', status });

const shown = (): string | undefined => EditorView.findFromDOM(document.body)?.state.doc.toString();

it('hands out what was typed when the session is deleted', async () => {
  const { unmount } = render(FilesPane, { session: session('running'), path: 'a.txt', visible: true });
  await vi.waitFor(() => expect(shown()).toBe('one'));
  EditorView.findFromDOM(document.body)?.dispatch({ changes: { from: 3, insert: ' two' } });
  const writeText = vi.fn(() => Promise.resolve());
  vi.stubGlobal('navigator', { clipboard: { writeText } });
  unmount();
  const toast = ui.toasts.at(-1);
  expect(toast?.text).toBe('a.txt was not saved, and its session is gone.');
  toast?.action?.run();
  expect(writeText).toHaveBeenCalledExactlyOnceWith('one two');
});

it('keeps what was typed while the session stops, starts and runs again', async () => {
  const { rerender } = render(FilesPane, { session: session('running'), path: 'a.txt', visible: true });
  await vi.waitFor(() => expect(shown()).toBe('one'));
  EditorView.findFromDOM(document.body)?.dispatch({ changes: { from: 3, insert: ' two' } });
  for (const status of ['stopping', 'stopped', 'starting', 'running'] as const) {
    await rerender({ session: session(status), path: 'a.txt', visible: true });
    await tick();
    expect([status, shown()]).toEqual([status, 'one two']);
    const save = screen.getByRole<HTMLButtonElement>('button', { name: /^Save/ });
    expect([status, save.disabled]).toEqual([status, status !== 'running']);
  }
});

it.each(['a.png', 'Photo.JPG', 'x/y.webp'])('shows the picture %s, and reads it as no text', async (path) => {
  render(FilesPane, { session: session('running'), path, visible: true });
  const image = await screen.findByRole<HTMLImageElement>('img', { name: path });
  expect(image.src).toMatch(/^blob:/);
  expect(asked.filter((one) => one.includes('/files/content'))).toEqual([]);
});

it('shows Markdown as a page without its HTML, and as text again', async () => {
  render(FilesPane, { session: session('running'), path: 'README.md', visible: true });
  await vi.waitFor(() => expect(shown()).toBe(MARKDOWN));
  screen.getByRole('button', { name: 'Preview' }).click();
  expect(await screen.findByRole('heading', { name: 'Totals' })).toBeTruthy();
  expect([screen.getByText('<b>bold</b>').querySelector('b'), shown()]).toEqual([null, undefined]);
  screen.getByRole('button', { name: 'Edit' }).click();
  await vi.waitFor(() => expect(shown()).toBe(MARKDOWN));
});

it('shows an SVG as the text that it is', async () => {
  render(FilesPane, { session: session('running'), path: 'a.svg', visible: true });
  await vi.waitFor(() => expect(shown()).toBe('one'));
  expect(asked.filter((one) => one.includes('/files/image'))).toEqual([]);
});

it('says why a file that calls itself a picture is not shown', async () => {
  picture = { status: 415, json: { error: '"a.png" is no picture that can be shown' } };
  render(FilesPane, { session: session('running'), path: 'a.png', visible: true });
  await screen.findByText('The picture cannot be shown');
  expect(screen.queryByRole('img')).toBeNull();
});
