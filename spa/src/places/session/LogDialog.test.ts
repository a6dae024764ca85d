// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { LogEntry } from '../../lib/types';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { fakeServer, type Reply, someSession } from '../../test/fakes';
import LogDialog from './LogDialog.svelte';

const ran: LogEntry = {
  at: '2026-01-01T08:00:00Z',
  kind: 'session',
  what: 'The session has stopped',
  by: '',
  from: '',
  outcome: '',
  status: null,
  milliseconds: null,
};
const asked: LogEntry = {
  ...ran,
  kind: 'request',
  what: 'Type a prompt',
  by: 'user "ann"',
  from: '127.0.0.1',
  outcome: 'it waits for an answer',
  status: 409,
  milliseconds: 3,
};
let reply: Reply;

beforeEach(async () => {
  fakeServer((call) => (call.path.endsWith('/log') ? reply : { json: [someSession()] }));
  await sessions.refresh();
});

afterEach(() => {
  cleanup();
  ui.log = '';
  vi.unstubAllGlobals();
});

function open(answer: Reply): void {
  reply = answer;
  ui.log = someSession().id;
  render(LogDialog);
}

it('tells what happened, newest first, and who asked for it', async () => {
  open({ json: [ran, asked] });
  const rows = await screen.findAllByRole('listitem');
  expect(rows.map((row) => row.querySelector('span')?.textContent.replace(/\s+/g, ' ').trim())).toEqual([
    'The session has stopped',
    'Type a prompt it waits for an answer, asked by user "ann" from 127.0.0.1',
  ]);
});

it('shows the terminals that were opened and closed when they are wanted', async () => {
  open({ json: [{ ...asked, what: 'Open the terminal', outcome: 'opened', status: 101 }, ran] });
  expect(await screen.findAllByRole('listitem')).toHaveLength(1);
  await userEvent.click(screen.getByRole('checkbox', { name: /Show terminals, too 1 line more/ }));
  expect(screen.getAllByRole('listitem')).toHaveLength(2);
});

it('says so when nothing is written down', async () => {
  open({ json: [] });
  expect(await screen.findByText('Nothing is written down yet.')).toBeTruthy();
});

it('shows why the log cannot be had', async () => {
  open({ status: 503, json: { error: 'Incus cannot be reached' } });
  expect(await screen.findByText('Incus cannot be reached')).toBeTruthy();
});
