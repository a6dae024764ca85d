// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { ui } from '../../state/ui.svelte';
import { type Call, fakeServer, type Reply, someSealedChange, someSession } from '../../test/fakes';
import SealNotice from './SealNotice.svelte';

const FROZEN = someSession({
  status: 'stopped',
  paused: true,
  protection: 'broken',
  protection_changes: [
    someSealedChange({ path: '/w/my-app/.git/hooks/pre-commit', what: 'gone', by: 'unknown', words: 'unshare, 4711', restored: false }),
    someSealedChange({ path: '/w/my-app/.git/config' }),
  ],
});

let calls: Call[];
let answer: () => Reply;

beforeEach(() => {
  answer = () => ({ json: {} });
  calls = fakeServer(({ method }) => (method === 'POST' ? answer() : { json: [] }));
  ui.toasts = [];
});

afterEach(() => {
  ui.question = null;
  cleanup();
  vi.unstubAllGlobals();
});

const posted = (): unknown[] =>
  calls.filter(({ method }) => method === 'POST').map(({ path, body }) => [path, body ? (JSON.parse(body as string) as unknown) : null]);
const click = (name: string) => userEvent.click(screen.getByRole('button', { name }));

it('says what was changed, by whom, and whether it was put back', () => {
  render(SealNotice, { session: FROZEN });
  const rows = screen.getAllByRole('listitem').map(({ textContent }) => textContent.replace(/\s+/g, ' ').trim());
  expect(rows[0]).toMatch(/^\.git\/config was replaced by another file most likely by a program in the container .* · put back as it was$/);
  expect(rows[1]).toMatch(/^\.git\/hooks\/pre-commit was taken away .* on this machine \(unshare, 4711\) .* · not put back$/);
});

it('stops the session and keeps its container', async () => {
  render(SealNotice, { session: FROZEN });
  await click('Stop and keep');
  await vi.waitFor(() => expect(posted()).toEqual([['/api/sessions/a/protection/resolve', { action: 'stop' }]]));
});

it('goes on only after it has said what that costs', async () => {
  render(SealNotice, { session: FROZEN });
  await click('Go on …');
  expect(ui.question?.text).toMatch(/\.git\/config has no seal until the session is started anew.*“basic”/);
  expect(posted()).toEqual([]);
  ui.question?.answer(true);
  await vi.waitFor(() => expect(posted()).toEqual([['/api/sessions/a/protection/resolve', { action: 'continue' }]]));
});

it('does nothing if the person thinks better of it', async () => {
  render(SealNotice, { session: FROZEN });
  await click('Go on …');
  ui.question?.answer(false);
  await Promise.resolve();
  expect(posted()).toEqual([]);
});

it('says why a decision did not hold', async () => {
  answer = () => ({ status: 409, json: { error: 'the container is gone' } });
  render(SealNotice, { session: FROZEN });
  await click('Stop and keep');
  await vi.waitFor(() => expect(ui.toasts.map(({ text }) => text)).toEqual(['my-app did not stop. The container is gone']));
});

it('leaves nothing to decide once the session is stopped and what was changed is accepted', () => {
  render(SealNotice, { session: { ...FROZEN, paused: false } });
  expect(screen.queryAllByRole('button')).toEqual([]);
});

it('says that a stopped session does not start until a person accepts, and asks them', async () => {
  answer = () => ({ status: 409, json: { error: '.git/logs was replaced; look at it, or start with "accept_changes": true' } });
  const waits = [someSealedChange({ path: '/w/my-app/.git/logs', kind: 'link', words: '.git/logs was a link to /home/x' })];
  render(SealNotice, { session: someSession({ status: 'stopped', protection_waits: waits }) });
  expect(screen.getByText(/A link appeared in a Git folder/).parentElement?.textContent).toMatch(/No session starts in this folder until you accept it/);
  await click('Accept and resume …');
  await vi.waitFor(() => expect(ui.question?.text).toMatch(/^\.git\/logs was replaced/));
  answer = () => ({ json: {} });
  ui.question?.answer(true);
  await vi.waitFor(() => expect(posted().at(-1)).toEqual(['/api/sessions/a/resume', { accept_changes: true }]));
});

it.each([
  [['seal'], 'A seal came off'],
  [['link', 'link'], 'A link appeared in a Git folder'],
  [['index'], 'Git’s index names what git must not touch'],
  [['repository'], 'A submodule or worktree that came since would have git run something'],
  [['operation'], 'An operation in progress would have git run or write something'],
  [['seal', 'link'], 'Something was changed that git on your machine would obey'],
] as const)('says of %s what happened', (kinds, words) => {
  const changes = kinds.map((kind) => someSealedChange({ kind }));
  render(SealNotice, { session: { ...FROZEN, protection_changes: changes } });
  expect(screen.getByText(`${words}, and the container is frozen until you decide.`)).toBeTruthy();
});

it('says of what was put aside what git would have done, and not that it was not put back', () => {
  const change = someSealedChange({ path: '/w/my-app/.git/logs', kind: 'link', restored: false, words: 'it was a link to /home/x' });
  render(SealNotice, { session: { ...FROZEN, protection_changes: [change] } });
  const [row] = screen.getAllByRole('listitem').map(({ textContent }) => textContent);
  expect(row).toContain('it was a link to /home/x');
  expect(row).not.toMatch(/put back|replaced by another file/);
});

it('says that a rebase that goes on would run on this machine, too', async () => {
  render(SealNotice, { session: { ...FROZEN, protection_changes: [someSealedChange({ kind: 'operation', words: 'exec make' })] } });
  await click('Go on …');
  expect(ui.question?.text).toMatch(/All seals stay on.*is put back: `git rebase --continue` on your machine would run its commands, too/);
});

it('shows a path that would turn the text around as signs', () => {
  render(SealNotice, { session: { ...FROZEN, protection_changes: [someSealedChange({ path: 'a\u202eb' })] } });
  expect(screen.getByText('a\ufffdb')).toBeTruthy();
});
