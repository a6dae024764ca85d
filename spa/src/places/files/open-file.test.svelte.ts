import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { type Call, fakeServer, type Reply } from '../../test/fakes';
import { files } from '../../state/written';
import { OpenFile } from './open-file.svelte';

/** The container's file. */
let disk: { text: string; version: number; gone?: boolean };
let file: OpenFile;
let calls: Call[];
/** The next answers arrive when this settles; the server gives them before. */
let onTheWay: Promise<void>;

const etag = () => `"${disk.version}"`;

beforeEach(async () => {
  files.current = {};
  disk = { text: 'one', version: 1 };
  onTheWay = Promise.resolve();
  const answer = ({ method, headers, body }: Call): Reply => {
    const anew = headers.get('If-None-Match') === '*' && disk.gone;
    if (method === 'GET' && disk.gone) return { status: 404, json: { error: 'it is gone' } };
    if (method === 'GET' && headers.get('If-None-Match') === etag()) return { status: 304 };
    if (method === 'GET') return { text: disk.text, headers: { ETag: etag() } };
    if (!anew && (disk.gone || headers.get('If-Match') !== etag())) return { status: 412, json: { error: 'it changed' } };
    disk = { text: body as string, version: disk.version + 1 };
    return { status: 204, headers: { ETag: etag() } };
  };
  calls = fakeServer((call) => {
    const reply = answer(call);
    return onTheWay.then(() => reply);
  });
  file = new OpenFile('s', 'a.txt');
  await file.load();
});

afterEach(() => vi.unstubAllGlobals());

/** The page is dropped and comes again. */
async function comeBack(): Promise<OpenFile> {
  const again = new OpenFile('s', 'a.txt');
  await again.load();
  return again;
}

it('has what was not saved when a phone has dropped the page', async () => {
  file.text = 'mine';
  file.keep();
  const again = await comeBack();
  expect([again.text, again.dirty, again.theirs]).toEqual(['mine', true, null]);
  await again.save();
  again.keep();
  expect([disk.text, (await comeBack()).dirty]).toEqual(['mine', false]);
});

it('leaves the choice to the person where the agent has written since', async () => {
  file.text = 'mine';
  file.keep();
  agentWrites('agent');
  const again = await comeBack();
  expect([again.text, again.theirs?.text]).toEqual(['mine', 'agent']);
  await again.save();
  expect(disk.text).toBe('agent');
});

it('keeps nothing that the person left without saving', async () => {
  file.text = 'mine';
  file.keep();
  file.forget();
  expect((await comeBack()).text).toBe('one');
});

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

it('asks no more for a file that is gone, and saves it anew', async () => {
  disk.gone = true;
  calls.length = 0;
  for (let times = 0; times < 3; times += 1) await file.check();
  expect([file.gone, file.text, calls.length]).toEqual([true, 'one', 1]);
  await file.save();
  expect([file.gone, file.dirty, disk.text, disk.gone]).toEqual([false, false, 'one', undefined]);
});

it('learns from a save that the file is gone, and keeps what was typed', async () => {
  disk.gone = true;
  file.text = 'mine';
  await file.save();
  expect([file.gone, file.text, file.error]).toEqual([true, 'mine', '']);
  agentWrites('agent');
  await file.save();
  expect([file.gone, file.theirs?.text, disk.text]).toEqual([false, 'agent', 'agent']);
});

it('sees a file again that came back', async () => {
  disk.gone = true;
  await file.check();
  agentWrites('agent');
  await file.check(true);
  expect([file.gone, file.text]).toEqual([false, 'agent']);
});

it('takes no answer that is older than a save', async () => {
  agentWrites('agent');
  let arrive = (): void => undefined;
  onTheWay = new Promise((resolve) => (arrive = resolve));
  const checking = file.check();
  onTheWay = Promise.resolve();
  file.text = 'mine';
  await file.save();
  await file.keepMine();
  arrive();
  await checking;
  expect([disk.text, file.text, file.dirty]).toEqual(['mine', 'mine', false]);
});

it('saves once at a time', async () => {
  file.text = 'two';
  calls.length = 0;
  await Promise.all([file.save(), file.save()]);
  expect([disk.text, calls.length, file.theirs]).toEqual(['two', 1, null]);
});
