import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Agent, Session } from '../lib/types';
import { type Call, fakeServer, type Reply, someAgent, someSealedChange, someSession } from '../test/fakes';
import { Sessions } from './sessions.svelte';

/** A session whose tool's state nobody knows, with what a test says of it. */
const session = (id: string, more: Partial<Session> = {}): Session =>
  someSession({ id, workspace: `/p/${id}`, created_at: '2026-01-01T00:00:00Z', agent: someAgent('unknown'), ...more });

const withAgent = (id: string, state: Agent['state'], since = '', seen = false): Session =>
  session(id, { agent: someAgent(state, { since, seen }) });

/** The server's sessions; a test changes them and says so with an event. */
let server: Map<string, Session>;
let sessions: Sessions;
let calls: Call[];
let answer: (call: Call) => Reply | Promise<Reply>;

function plain({ method, path }: Call): Reply {
  const [place, wanted] = path.split('?id=');
  if (place === '/api/sessions' && method === 'GET')
    return { json: [...server.values()].filter(({ id }) => wanted === undefined || id === wanted) };
  const found = server.get(path.split('/')[3]?.split('?')[0] ?? '');
  return found ? { json: found } : { status: 404, json: { error: 'unknown session' } };
}

beforeEach(() => {
  server = new Map([session('a'), session('b', { status: 'stopped' })].map((one) => [one.id, one]));
  answer = plain;
  calls = fakeServer((call) => answer(call));
  sessions = new Sessions();
});

afterEach(() => vi.unstubAllGlobals());

const statuses = () => Object.fromEntries(sessions.list.map(({ id, status }) => [id, status]));

describe('the numbers for Alt', () => {
  const numbers = () => Object.fromEntries(sessions.list.map(({ id }) => [id, sessions.numberOf(id)]));

  it('stay with their sessions when the list is sorted anew', async () => {
    await sessions.refresh();
    const before = numbers();
    expect(before).toEqual({ a: 1, b: 2 });
    server.set('c', withAgent('c', 'waiting', '2026-03-03T00:00:00Z'));
    await sessions.refresh();
    expect([sessions.ordered[0]?.id, numbers()]).toEqual(['c', { ...before, c: 3 }]);
    expect(sessions.numbered(1)?.id).toBe('a');
  });

  it('go to a session that runs rather than to one that is stopped', async () => {
    for (let index = 0; index < 9; index += 1) server.set(`s${index}`, session(`s${index}`, { status: 'stopped' }));
    await sessions.refresh();
    server.set('new', session('new'));
    await sessions.refresh();
    expect(sessions.numberOf('a')).toBe(1);
    expect(sessions.numberOf('new')).toBeGreaterThan(0);
    expect(new Set(Object.values(numbers()).filter(Boolean)).size).toBe(9);
  });
});

it.each([
  ['the changes', () => sessions.changesAre('a', { files: 2, added: 1, removed: 0 })],
  ['a bell', () => sessions.rang('a', '2026-02-02T00:00:09Z')],
])('fetches anew after an event about %s, which a list on its way may be older than', async (_, tell) => {
  await sessions.refresh();
  const before = calls.length;
  const loading = sessions.refresh();
  tell();
  await loading;
  await vi.waitFor(() => expect(calls.slice(before).map(({ path }) => path)).toEqual(['/api/sessions', '/api/sessions?id=a']));
});

describe('the list', () => {
  it('is grouped by what needs attention, newest first', async () => {
    server.set('c', session('c', { created_at: '2026-02-02T00:00:00Z' }));
    server.set('a', session('a', { rang_at: '2026-02-02T00:00:09Z' }));
    await sessions.refresh();
    expect(sessions.groups.map((group) => [group.title, group.sessions.map(({ id }) => id)])).toEqual([
      ['Needs you', ['a']],
      ['Running', ['c']],
      ['Stopped', ['b']],
    ]);
    sessions.seen('a');
    expect(sessions.ordered.map(({ id }) => id)).toEqual(['c', 'a', 'b']);
    server.set('a', session('a', { rang_at: '2026-02-02T00:00:10Z' }));
    await sessions.refresh();
    expect({ first: sessions.ordered[0]?.id, waiting: sessions.waiting.length }).toEqual({ first: 'a', waiting: 1 });
  });

  it('needs a person first of all where a seal came off, until the session is stopped', async () => {
    const at = '2026-02-02T00:00:00Z';
    const frozen = { status: 'stopped', paused: true, protection: 'broken', protection_changes: [someSealedChange({ at })] } satisfies Partial<Session>;
    server = new Map([withAgent('waits', 'waiting'), session('frozen', frozen)].map((one) => [one.id, one]));
    await sessions.refresh();
    expect(sessions.waiting.map(({ id }) => id)).toEqual(['frozen', 'waits']);
    expect(sessions.countsFrom(session('frozen', frozen))).toBe(at);
    server.set('frozen', session('frozen', { ...frozen, paused: false }));
    await sessions.refresh();
    expect(sessions.waiting.map(({ id }) => id)).toEqual(['waits']);
  });

  it('counts a crash of the tool as a failure, and an exit as none', async () => {
    const ended = (id: string, why: 'crashed' | '') => session(id, { agent: someAgent('ended', { reason: why }) });
    server = new Map([withAgent('done', 'done'), ended('crashed', 'crashed'), ended('left', '')].map((one) => [one.id, one]));
    await sessions.refresh();
    expect(sessions.waiting.map(({ id }) => id)).toEqual(['crashed', 'done']);
  });

  it('puts what is pinned first in its group, and also among those that need a person', async () => {
    const pinned = { pinned: true };
    server = new Map(
      [
        session('old', pinned),
        session('new', { created_at: '2026-02-02T00:00:00Z' }),
        { ...withAgent('failed', 'failed'), ...pinned },
        withAgent('waits', 'waiting'),
      ].map((one) => [one.id, one]),
    );
    await sessions.refresh();
    expect(sessions.ordered.map(({ id }) => id)).toEqual(['failed', 'waits', 'old', 'new']);
    expect([sessions.waiting[0]?.id, sessions.next('failed')?.id]).toEqual(['failed', 'waits']);
  });

  it('moves a session when it is pinned', async () => {
    server.set('c', session('c', { created_at: '2026-02-02T00:00:00Z' }));
    await sessions.refresh();
    answer = (call) => (call.method === 'PATCH' ? { json: session('a', { pinned: true }) } : plain(call));
    await sessions.change('a', { pinned: true });
    expect([calls.at(-1)?.path, calls.at(-1)?.body]).toEqual(['/api/sessions/a', '{"pinned":true}']);
    expect(sessions.ordered.map(({ id }) => id)).toEqual(['a', 'c', 'b']);
  });

  it('keeps what it had when a later fetch fails', async () => {
    await sessions.refresh();
    answer = () => ({ status: 503, json: { error: 'Incus is away.' } });
    await sessions.refresh();
    expect({ phase: sessions.phase, error: sessions.error, ids: Object.keys(statuses()) }).toEqual({
      phase: 'ready',
      error: 'Incus is away.',
      ids: ['a', 'b'],
    });
  });

  it('says that Incus does not answer, until it does', async () => {
    await sessions.refresh();
    answer = () => ({ status: 503, json: { error: 'Incus is away.' } });
    await sessions.refresh();
    expect([sessions.unreachable, sessions.groups.map(({ title }) => title)]).toEqual([
      'Incus is away.',
      ['Last seen running', 'Stopped'],
    ]);
    answer = plain;
    await sessions.refresh();
    expect([sessions.unreachable, sessions.groups.map(({ title }) => title)]).toEqual(['', ['Running', 'Stopped']]);
  });

  it('says of those whose own engine does not answer neither that they work nor that they are idle', async () => {
    server.set('away', { ...withAgent('away', 'waiting'), engine: 'tower', unreachable_since: '2026-02-02T00:00:00Z' });
    await sessions.refresh();
    expect(sessions.groups.map(({ title, sessions: members }) => [title, members.map(({ id }) => id)])).toContainEqual([
      'Unreachable',
      ['away'],
    ]);
    expect(sessions.waiting).toEqual([]);
  });

  it('does not blame Incus for another failure', async () => {
    answer = () => ({ status: 500, json: { error: 'Something broke.' } });
    await sessions.refresh();
    expect([sessions.error, sessions.unreachable]).toEqual(['Something broke.', '']);
  });

  it.each([
    ['Incus does not answer: check the incus service', 'Incus does not answer: check the incus service.'],
    ['connection refused.', 'Incus does not answer: connection refused.'],
    ['', ''],
  ])('says of %j whom it is about', (reason, said) => {
    sessions.unreachable = reason;
    expect(sessions.away).toBe(said);
  });

  it('says what failed when it was never there', async () => {
    answer = () => ({ status: 503, json: { error: 'Incus is away.' } });
    await sessions.refresh();
    expect({ phase: sessions.phase, error: sessions.error }).toEqual({ phase: 'error', error: 'Incus is away.' });
  });
});

describe('what tools do', () => {
  const put = (...listed: Session[]): Promise<void> => {
    server = new Map(listed.map((one) => [one.id, one]));
    return sessions.refresh();
  };
  const grouped = () => sessions.groups.map(({ title, sessions }) => `${title}: ${sessions.map(({ id }) => id).join(' ')}`);

  it('puts first who needs a person, and of those with one need who has waited longest', async () => {
    await put(
      withAgent('ended', 'ended'),
      withAgent('idle', 'idle'),
      withAgent('starting', 'starting'),
      withAgent('working', 'working'),
      withAgent('done', 'done'),
      withAgent('stuck', 'stuck'),
      withAgent('failed', 'failed'),
      withAgent('later', 'waiting', '2026-01-01T00:02:00Z'),
      withAgent('sooner', 'waiting', '2026-01-01T00:01:00Z'),
      withAgent('unknown', 'unknown'),
      session('stopped', { status: 'stopped', agent: someAgent('none') }),
    );
    expect(grouped()).toEqual([
      'Needs you: sooner later failed stuck done',
      'Working: starting working',
      'Idle: ended idle',
      'Running: unknown',
      'Stopped: stopped',
    ]);
    expect(sessions.waiting.map(({ id }) => id)).toEqual(['sooner', 'later', 'failed', 'stuck', 'done']);
  });

  it('leads from one that needs a person to the next, and from the last to the first', async () => {
    await put(withAgent('a', 'waiting'), withAgent('b', 'failed'), withAgent('c', 'working'));
    expect(['', 'c', 'a', 'b'].map((id) => sessions.next(id)?.id)).toEqual(['a', 'a', 'b', 'a']);
    await put(withAgent('a', 'waiting'));
    expect(sessions.next('a')).toBeUndefined();
  });

  it.each([
    ['what its tool does', { agent: someAgent('waiting') }, (one: Session) => sessions.agentIs('a', one.agent)],
    ['its bell', { rang_at: 'T2' }, (one: Session) => sessions.rang('a', one.rang_at)],
    ['its changes', { changes: { files: 3, added: 1, removed: 1 } }, (one: Session) => sessions.changesAre('a', one.changes)],
  ])('%s comes by an event, also while an older list is on its way', async (_, news, tell) => {
    await put(withAgent('a', 'working'));
    const later = { ...withAgent('a', 'working'), ...news };
    answer = async (call) => {
      const older = plain(call);
      answer = plain;
      await Promise.resolve();
      server.set('a', later);
      tell(later);
      return older;
    };
    await sessions.refresh();
    await vi.waitFor(() => expect(sessions.get('a')).toMatchObject(news));
  });

  it('is told to the server as seen once for each state that calls a person', async () => {
    const posts = () => calls.filter(({ method }) => method === 'POST').map(({ path }) => path);
    await put(withAgent('a', 'working', 'T1'), withAgent('b', 'done', 'T1', true));
    for (const id of ['a', 'b', 'gone']) sessions.seen(id);
    expect(posts()).toEqual([]);
    sessions.agentIs('a', someAgent('done', { turn: 2 }));
    for (const id of ['a', 'a']) sessions.seen(id);
    expect(posts()).toEqual(['/api/sessions/a/seen']);
    sessions.agentIs('a', someAgent('done', { turn: 3 }));
    sessions.seen('a');
    expect(posts()).toHaveLength(2);
  });

  it('is told again if the server could not keep it', async () => {
    await put(withAgent('a', 'done', 'T1'));
    answer = () => ({ status: 500, json: { error: 'The disk is full.' } });
    sessions.seen('a');
    await vi.waitFor(() => {
      sessions.seen('a');
      expect(calls.filter(({ method }) => method === 'POST')).toHaveLength(2);
    });
  });

  it('is never “done” under the eyes of the person', async () => {
    await put(withAgent('a', 'done', 'T1'));
    sessions.watched = 'a';
    expect([grouped(), sessions.waiting]).toEqual([['Idle: a'], []]);
  });

  it('tells the age of its state, else of the session', async () => {
    const started_at = '2026-01-01T00:00:01Z';
    const known = session('a', { started_at, agent: someAgent('working', { since: '2026-01-01T00:00:02Z' }) });
    const unknown = session('b', { started_at });
    const stopped = session('c', { started_at, status: 'stopped', agent: someAgent('none', { since: '2026-01-01T00:00:03Z' }) });
    await put(known, unknown, stopped);
    const counted = [known, unknown, stopped].map((one) => sessions.countsFrom(one));
    expect(counted).toEqual(['2026-01-01T00:00:02Z', started_at, '2026-01-01T00:00:03Z']);
  });

  it('leaves each row where it is while the list is held, but for what is gone', async () => {
    await put(withAgent('a', 'working'), withAgent('b', 'working'), withAgent('c', 'idle'));
    const shown = sessions.groups;
    await put(withAgent('b', 'waiting'), withAgent('c', 'idle'), withAgent('new', 'waiting'));
    const order = (held: boolean) => sessions.arranged(shown, held).map(({ key, sessions }) => [key, ...sessions.map(({ id }) => id)]);
    expect(order(true)).toEqual([
      ['working', 'b'],
      ['idle', 'c'],
    ]);
    expect(order(false)).toEqual([
      ['attention', 'b', 'new'],
      ['idle', 'c'],
    ]);
  });
});

describe('a change elsewhere', () => {
  it('of one session is asked for as a list: a session that is gone would be a 404', async () => {
    await sessions.refresh();
    server.delete('a');
    server.set('c', session('c', { status: 'starting' }));
    for (const id of ['a', 'c']) await sessions.refresh(id);
    expect(statuses()).toEqual({ b: 'stopped', c: 'starting' });
    expect(calls.map(({ path }) => path)).toEqual(['/api/sessions', '/api/sessions?id=a', '/api/sessions?id=c']);
  });

  it('of one session while another is on its way leads to one fetch of that one, of more to one of all', async () => {
    await sessions.refresh();
    await Promise.all([sessions.refresh('a'), sessions.refresh('b'), sessions.refresh('b')]);
    await Promise.all([sessions.refresh('a'), sessions.refresh('b'), sessions.refresh('a')]);
    const paths = ['', '?id=a', '?id=b', '?id=a', ''].map((query) => `/api/sessions${query}`);
    expect(calls.map(({ path }) => path)).toEqual(paths);
  });

  it('leads to a fetch of all while the list could not be had', async () => {
    answer = () => ({ status: 503, json: { error: 'Incus is away.' } });
    await sessions.refresh();
    answer = plain;
    await sessions.refresh('a');
    expect(statuses()).toEqual({ a: 'running', b: 'stopped' });
  });

  it('that is told while the list is on its way is not lost', async () => {
    let meanwhile: Promise<void> | undefined;
    answer = async (call) => {
      const reply = plain(call);
      answer = plain;
      await Promise.resolve();
      server.set('a', session('a', { status: 'stopped' }));
      meanwhile = sessions.refresh();
      return reply;
    };
    await sessions.refresh();
    expect(statuses()).toEqual({ a: 'running', b: 'stopped' });
    await meanwhile;
    expect(statuses()).toEqual({ a: 'stopped', b: 'stopped' });
  });

  it('leads to one more fetch, not to many', async () => {
    await Promise.all(Array.from({ length: 9 }, () => sessions.refresh()));
    expect(calls).toHaveLength(2);
  });
});

describe('an action', () => {
  it('shows at once, and settles on what the server says', async () => {
    await sessions.refresh();
    let during: unknown;
    answer = (call) => {
      if (call.method === 'DELETE') {
        during = statuses();
        server.set('a', session('a', { status: 'stopped' }));
        return { status: 204 };
      }
      return plain(call);
    };
    await sessions.stop('a');
    expect(during).toEqual({ a: 'stopping', b: 'stopped' });
    expect(statuses()).toEqual({ a: 'stopped', b: 'stopped' });
  });

  it('that fails shows the truth again, and tells why', async () => {
    await sessions.refresh();
    answer = (call) => (call.method === 'POST' ? { status: 500, json: { error: 'No memory.' } } : plain(call));
    await expect(sessions.resume('b')).rejects.toThrow('No memory.');
    expect(statuses()).toEqual({ a: 'running', b: 'stopped' });
  });
});

describe('creating', () => {
  it('adds the session and is over', async () => {
    answer = () => ({ json: session('new') });
    const made = await sessions.create({ workspace: '/p/new' });
    expect([made?.id, Object.keys(statuses()), sessions.creations]).toEqual(['new', ['new'], []]);
  });

  it('that fails keeps its reason until it is dismissed, and is not tried again', async () => {
    answer = () => ({ status: 500, json: { error: 'No image “x”.' } });
    expect(await sessions.create({ workspace: '/p/new' })).toBeNull();
    expect(sessions.creations.map(({ error }) => error)).toEqual(['No image “x”.']);
    expect(calls).toHaveLength(1);
    sessions.dismiss(sessions.creations[0]?.key ?? 0);
    expect(sessions.creations).toEqual([]);
  });
});
