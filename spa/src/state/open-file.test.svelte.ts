import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { fakeServer } from '../test/fakes';
import { OpenFile } from './open-file.svelte';

/** The container's file. */
let disk: { text: string; version: number };
let file: OpenFile;

const etag = () => `"${disk.version}"`;

beforeEach(async () => {
  disk = { text: 'one', version: 1 };
  fakeServer(({ method, headers, body }) => {
    if (method === 'GET' && headers.get('If-None-Match') === etag()) return { status: 304 };
    if (method === 'GET') return { text: disk.text, headers: { ETag: etag() } };
    if (headers.get('If-Match') !== etag()) return { status: 412, json: { error: 'it changed' } };
    disk = { text: body as string, version: disk.version + 1 };
    return { status: 204, headers: { ETag: etag() } };
  });
  file = new OpenFile('s', 'a.txt');
  await file.load();
});

afterEach(() => vi.unstubAllGlobals());

const agentWrites = (text: string) => (disk = { text, version: disk.version + 1 });

it('saves over the version that was opened, again and again', async () => {
  for (const text of ['two', 'three']) {
    file.text = text;
    await file.save();
    expect([disk.text, file.dirty, file.theirs]).toEqual([text, false, null]);
  }
});

it('takes the agent’s version when nothing was typed', async () => {
  agentWrites('agent');
  await file.check();
  expect([file.text, file.dirty, file.theirs]).toEqual(['agent', false, null]);
});

it('never overwrites what the agent wrote meanwhile', async () => {
  file.text = 'mine';
  agentWrites('agent');
  await file.save();
  expect([disk.text, file.text, file.theirs?.text]).toEqual(['agent', 'mine', 'agent']);
});

it('notices the change before anything is saved', async () => {
  file.text = 'mine';
  agentWrites('agent');
  await file.check();
  expect([file.text, file.theirs?.text]).toEqual(['mine', 'agent']);
});

it('overwrites only the version that the person was told of', async () => {
  file.text = 'mine';
  agentWrites('agent');
  await file.check();
  agentWrites('agent again');
  await file.keepMine();
  expect([disk.text, file.theirs?.text]).toEqual(['agent again', 'agent again']);
  await file.keepMine();
  expect([disk.text, file.dirty, file.theirs]).toEqual(['mine', false, null]);
});

it('drops what was typed for theirs only when asked to', async () => {
  file.text = 'mine';
  agentWrites('agent');
  await file.check();
  file.takeTheirs();
  expect([file.text, file.dirty, file.theirs]).toEqual(['agent', false, null]);
});
