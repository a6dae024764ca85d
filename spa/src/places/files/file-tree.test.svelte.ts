import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { fakeServer } from '../../test/fakes';
import { FileTree } from './file-tree.svelte';

/** The names in each folder, as the server lists them. */
const FOLDERS: Record<string, { name: string; type: string; encoded?: string; placeholder?: boolean }[]> = {
  '': [
    { name: 'b.txt', type: 'file' },
    { name: 'a10', type: 'file' },
    { name: 'a9', type: 'file' },
    { name: 'src', type: 'directory' },
    { name: '.vscode', type: 'directory', placeholder: true },
    { name: 'caf\ufffd', type: 'directory', encoded: 'caf%E9' },
  ],
  src: [{ name: 'main.py', type: 'file' }],
  'caf%E9': [{ name: 'men\ufffd.txt', type: 'file', encoded: 'men%FC.txt' }],
};

let asked: string[];
let tree: FileTree;

beforeEach(() => {
  asked = [];
  fakeServer(({ path }) => {
    const folder = decodeURI(path.slice(path.indexOf('path=') + 5).replace('%E9', '%25E9'));
    asked.push(folder);
    const entries = FOLDERS[folder];
    return entries ? { json: { path: folder, entries } } : { status: 404, json: { error: 'no such folder' } };
  });
  tree = new FileTree('s');
});

afterEach(() => vi.unstubAllGlobals());

const names = (): string[] => tree.rows.map(({ path }) => path);

it('lists folders first, numbers as numbers, and not what keeps a protected path from being made', async () => {
  await tree.refresh();
  expect(names()).toEqual(['caf\udce9', 'src', 'a9', 'a10', 'b.txt']);
});

it('unfolds a folder whose name is no UTF-8, and names what is in it by its bytes', async () => {
  await tree.refresh();
  await tree.toggle('caf\udce9');
  expect(asked.at(-1)).toBe('caf%E9');
  expect(names().slice(0, 2)).toEqual(['caf\udce9', 'caf\udce9/men\udcfc.txt']);
});

it('unfolds the folders above a file', async () => {
  await tree.refresh();
  await tree.reveal('src/main.py');
  expect(names()).toContain('src/main.py');
});
