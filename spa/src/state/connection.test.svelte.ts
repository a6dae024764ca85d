import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { isOutdated } from '../lib/outdated';
import type { Session } from '../lib/types';
import { fakeBrowser, FakeSocket, fakeServer, someAgent, someSession } from '../test/fakes';
import { Connection } from './connection.svelte';
import { sessions } from './sessions.svelte';
import { ui } from './ui.svelte';

vi.mock('../lib/outdated', () => ({ isOutdated: vi.fn(() => Promise.resolve(false)) }));

const SESSION = someSession();

let connection: Connection;
let listed: Session[];

beforeEach(async () => {
  vi.mocked(isOutdated).mockClear();
  fakeBrowser();
  listed = [SESSION];
  fakeServer(({ path }) => {
    if (path === '/api/sessions') return { json: listed };
    if (path === '/api/workspaces') return { json: { roots: [], expanded_roots: [], workspaces: [] } };
    return { json: { dashboard: {}, profiles: {}, checks: {} } };
  });
  connection = new Connection();
  connection.start();
  FakeSocket.last.open();
  await vi.waitFor(() => expect(sessions.list).toHaveLength(1));
});

afterEach(() => {
  connection.socket?.dispose();
  sessions.unreachable = '';
  vi.unstubAllGlobals();
});

const say = (event: object): void => FakeSocket.last.say(JSON.stringify(event));

it('says that Incus is away, keeps what was seen last, and lets nothing be changed', () => {
  say({ type: 'incus.unreachable', error: 'The daemon does not answer.' });
  expect([sessions.unreachable, connection.hindrance, sessions.list.length]).toEqual([
    'The daemon does not answer.',
    'Incus does not answer',
    1,
  ]);
});

it('fetches the list anew when Incus is back', async () => {
  say({ type: 'incus.unreachable', error: 'The daemon does not answer.' });
  listed = [SESSION, { ...SESSION, id: 'b' }];
  say({ type: 'incus.reachable' });
  await vi.waitFor(() => expect(sessions.list).toHaveLength(2));
  expect([sessions.unreachable, connection.hindrance]).toEqual(['', '']);
});

it('is stale when the server is gone, which hinders more than Incus does', () => {
  say({ type: 'incus.unreachable', error: 'The daemon does not answer.' });
  FakeSocket.last.lose(1006);
  expect([connection.stale, connection.hindrance]).toEqual([true, 'no connection to the server']);
});

it('says that it is signed out when a refused stream is not a lost one, and forgets it after a sign-in in another tab', async () => {
  const reply = { status: 401, json: { error: 'this needs the token' } };
  fakeServer(() => reply);
  FakeSocket.last.lose(1006);
  await vi.waitFor(() => expect([connection.signedOut, connection.hindrance]).toEqual([true, 'you are signed out']));
  fakeServer(() => ({ json: listed }));
  await sessions.refresh();
  expect(connection.signedOut).toBe(false);
});

it('lets nothing be changed of a session whose own engine does not answer', () => {
  const away = { ...SESSION, engine: 'tower', unreachable_since: '2026-02-02T00:00:00Z' };
  expect([connection.hinders(SESSION), connection.hinders(away)]).toEqual(['', 'tower does not answer']);
});

it('does not stumble over an event that it does not know', () => {
  say({ type: 'of.another.day' });
  expect(sessions.list).toHaveLength(1);
});

it('asks for no session of which an event says all that has changed', async () => {
  const calls = fakeServer(() => ({ json: listed }));
  say({ type: 'session.changed', id: 'a', rang_at: '2026-01-01T00:00:09Z' });
  expect([sessions.get('a')?.rang_at, calls.length]).toEqual(['2026-01-01T00:00:09Z', 0]);
  say({ type: 'session.changed', id: 'a' });
  await vi.waitFor(() => expect(calls.map(({ path }) => path)).toEqual(['/api/sessions?id=a']));
});

it('fetches the session whose protection an event names', async () => {
  const calls = fakeServer(() => ({ json: [{ ...SESSION, protection: 'broken', status: 'stopped', paused: true }] }));
  say({ type: 'session.protection', id: 'a', protection: 'broken' });
  await vi.waitFor(() => expect(sessions.waiting.map(({ id }) => id)).toEqual(['a']));
  expect(calls.map(({ path }) => path)).toEqual(['/api/sessions?id=a']);
});

it('tells of a placeholder of a login that was where it does not belong', () => {
  ui.toasts = [];
  say({ type: 'session.alarm', id: 'a', text: 'the placeholder of the login github was in the address' });
  expect(ui.toasts.map(({ text, kind }) => [text.endsWith('github was in the address'), kind])).toEqual([[true, 'error']]);
});

it('shows what a tool does as soon as the server says it', () => {
  say({ type: 'session.agent', id: 'a', agent: someAgent('waiting', { text: 'Which colour?' }) });
  expect(sessions.waiting.map(({ agent }) => agent.text)).toEqual(['Which colour?']);
});

it('offers a reload when the server that came back has a newer page', async () => {
  ui.toasts = [];
  vi.mocked(isOutdated).mockResolvedValue(true);
  expect(isOutdated).not.toHaveBeenCalled();
  FakeSocket.last.lose(1006);
  connection.retry();
  FakeSocket.last.open();
  await vi.waitFor(() => expect(ui.toasts.map(({ text, action }) => [text, action?.label])).toEqual([['Clincus was updated. This page is the older one.', 'Reload']]));
});
