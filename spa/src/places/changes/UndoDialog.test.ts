// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { sessions } from '../../state/sessions.svelte';
import { type Call, fakeServer, type Reply, someChange, someSession } from '../../test/fakes';
import { Undo } from './undo.svelte';
import UndoDialog from './UndoDialog.svelte';

const FILES = [someChange({ path: 'its' }), someChange({ path: 'now', old_path: 'then', status: 'R' }), someChange({ path: 'theirs', touched: false })];
const DONE = { checkpoint: '7', restored: ['its', 'then'], removed: ['now'], failed: [] };

let calls: Call[];
let undo: Undo;

beforeEach(() => {
  calls = fakeServer(({ method }) => ({ json: method === 'POST' ? DONE : { files: FILES, truncated: false, skipped: [], others: ['b'], stale: '' } }));
  undo = new Undo('a', () => undefined, () => undefined);
});

afterEach(() => {
  cleanup();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

/** Opens the dialog of an undo of all, beside another session in the same folder. */
async function open(fields: Partial<Parameters<Undo['ask']>[0]> = {}): Promise<void> {
  vi.spyOn(sessions, 'get').mockImplementation((id) => (id === 'b' ? someSession({ id, name: 'the other one' }) : undefined));
  await undo.ask({ title: 'Undo all?', from: 'start', only: null, end: '', ...fields });
  render(UndoDialog, { undo, session: someSession() });
}

const boxes = (): string[] => screen.getAllByRole<HTMLInputElement>('checkbox').map((box) => `${box.closest('label')?.textContent.trim().split(/\s/)[0] ?? ''} ${box.checked}`);

it('chooses what the turns of this session touched, and names the other session', async () => {
  await open();
  expect(boxes()).toEqual(['2 false', 'its true', 'now true', 'theirs false']);
  expect(screen.getByRole('dialog').textContent).toContain('Another session works in the same folder: the other one.');
});

it('puts back what is chosen, a renamed file by both of its names', async () => {
  await open();
  await userEvent.click(screen.getByRole('checkbox', { name: /^its/ }));
  await userEvent.click(screen.getByRole('button', { name: 'Revert 1 file' }));
  await vi.waitFor(() => expect(undo.request).toBeNull());
  const sent = calls.find(({ method }) => method === 'POST');
  expect([sent?.path, sent?.body]).toEqual(['/api/sessions/a/restore', '{"checkpoint":"start","paths":["then","now"]}']);
});

it('offers the files of a turn alone, and tells which of them changed again', async () => {
  await open({ only: new Set(['its']), end: '5' });
  expect(boxes()).toEqual(['1 true', 'its true']);
  expect(screen.getByRole('dialog').textContent).toContain('1 file changed again after that turn');
});

it('names the files that no checkpoint holds, but not those that are ignored', async () => {
  const skipped = [
    { path: 'film.mp4', why: 'large' },
    { path: 'node_modules/', why: 'ignored' },
  ];
  fakeServer(() => ({ json: { files: FILES, truncated: false, skipped, others: [], stale: '' } }));
  await open();
  const text = screen.getByRole('dialog').textContent.replace(/\s+/g, ' ');
  expect(text).toContain('No checkpoint holds film.mp4 (over 20 MB). An undo leaves it as it is.');
  expect(text).not.toContain('node_modules');
});

it('stays open with the reason when nothing was undone', async () => {
  await open();
  fakeServer(() => ({ status: 409, json: { error: 'the session is stopped' } }));
  await userEvent.click(screen.getByRole('button', { name: 'Revert 2 files' }));
  await vi.waitFor(() => expect(screen.getByRole('dialog').textContent).toContain('The session is stopped'));
});

it('keeps the answer to a newer question when an older one fails', async () => {
  let answer: ((reply: Reply) => void) | undefined;
  const later = { title: 'Undo one?', from: 'turn', only: null, end: '' };
  calls = fakeServer(({ path }) =>
    path.includes('from=start')
      ? new Promise<Reply>((resolve) => (answer = resolve))
      : { json: { files: FILES, truncated: false, skipped: [], others: [], stale: '' } },
  );
  const older = undo.ask({ title: 'Undo all?', from: 'start', only: null, end: '' });
  await vi.waitFor(() => expect(answer).toBeDefined());
  await undo.ask(later);
  answer?.({ status: 409, json: { error: 'too late' } });
  await older;
  expect([undo.phase, undo.request]).toEqual(['ready', later]);
});
