/** public/worker.js, run in a stand-in for the scope of a service worker. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { type Call, fakeServer, type Reply } from './fakes';

const SOURCE = readFileSync(join(import.meta.dirname, '../../public/worker.js'), 'utf8');
const ENDPOINT = 'https://fcm.googleapis.com/fcm/send/abc';
const ID = '4e9bdab8bbe7189c'; // sha256sum of it

interface Shown {
  title: string;
  tag: string;
  body: string;
  silent: boolean;
  renotify: boolean;
  actions: { action: string; title: string }[];
  data: { path: string };
  close: () => void;
}

const news = (id: string, fresh: boolean) => ({ id, title: `${id} waits for you`, text: '', state: 'waiting', fresh });

let listeners: Map<string, (event: unknown) => void>;
let shown: Shown[];
let closed: string[];
interface Window {
  focused: boolean;
  messages: unknown[];
  focus: () => Promise<void>;
  postMessage: (message: unknown, ports: MessagePort[]) => void;
}

let windows: Window[];
let opened: string[];
let badge: number | undefined;
let calls: Call[];
let answer: Reply;

/** A window of the dashboard; one that does not listen is at the sign-in. */
function someWindow(focused: boolean, listens = true, mayFocus = true): Window {
  const messages: unknown[] = [];
  return {
    focused,
    messages,
    focus: () => (mayFocus ? Promise.resolve() : Promise.reject(new Error('not allowed'))),
    postMessage: (message, [port]) => {
      messages.push(message);
      if (listens) port?.postMessage('taken');
    },
  };
}

/** Lets the worker handle an event to its end. */
async function handle(type: string, event: object = {}): Promise<void> {
  const work: Promise<unknown>[] = [];
  listeners.get(type)?.({ ...event, waitUntil: (one: Promise<unknown>) => work.push(one) });
  await Promise.all(work);
}

beforeEach(() => {
  listeners = new Map();
  shown = [];
  closed = [];
  windows = [];
  opened = [];
  badge = undefined;
  calls = fakeServer(() => answer);
  const subscription = { endpoint: ENDPOINT, options: { userVisibleOnly: true } };
  const scope = {
    addEventListener: (type: string, listener: (event: unknown) => void) => listeners.set(type, listener),
    registration: {
      pushManager: {
        getSubscription: () => Promise.resolve(subscription),
        subscribe: () => Promise.resolve({ endpoint: `${ENDPOINT}/new` }),
      },
      getNotifications: () => Promise.resolve(shown),
      showNotification: (title: string, options: Omit<Shown, 'title' | 'close'>) => {
        if (title === 'refused') return Promise.reject(new TypeError('no permission'));
        shown = shown.filter(({ tag }) => tag !== options.tag);
        shown.push({ title, ...options, close: () => closed.push(options.tag) });
        return Promise.resolve();
      },
    },
    navigator: { setAppBadge: (count: number) => Promise.resolve(void (badge = count)) },
    clients: { matchAll: () => Promise.resolve(windows), openWindow: (path: string) => Promise.resolve(opened.push(path)) },
  };
  // eslint-disable-next-line @typescript-eslint/no-implied-eval -- the worker is no module
  (new Function('self', SOURCE) as (self: unknown) => void)(scope);
});

afterEach(() => vi.unstubAllGlobals());

it('answers no request of the page, so that nothing of it can be stale', () => {
  expect([...listeners.keys()].sort()).toEqual(['activate', 'install', 'notificationclick', 'push', 'pushsubscriptionchange']);
});

it('asks the server what waits, and shows what is new', async () => {
  answer = { json: [news('b', true), news('a', false)] };
  await handle('push');
  expect(calls.map(({ method, path }) => `${method} ${path}`)).toEqual([`POST /api/push/subscriptions/${ID}/news`]);
  expect(shown).toMatchObject([{ title: 'b waits for you', tag: 'b', renotify: true, data: { path: '/sessions/b' } }]);
});

it('counts the sessions that wait on the icon, and no test', async () => {
  answer = { json: [news('b', true), news('a', false), news('', true)] };
  await handle('push');
  expect(badge).toBe(2);
});

const QUESTION = { ...news('a', true), name: 'my-app', text: 'Which port?', answers: ['3000', '8080'], number: 7 };

/** Shows a question, and presses the button of an answer in it. */
async function press(action: string, reply: Reply): Promise<void> {
  answer = { json: [QUESTION] };
  await handle('push');
  answer = reply;
  const [notification] = shown;
  shown = [];
  await handle('notificationclick', { notification, action });
}

it('makes no sound where the server says so', async () => {
  answer = { json: [{ ...news('a', true), silent: true }] };
  await handle('push');
  expect(shown).toMatchObject([{ title: 'a waits for you', silent: true, renotify: false }]);
});

it('answers a question by the button of an option, and names the question that it answers', async () => {
  await press('2', { json: { result: 'answered' } });
  expect(calls.at(-1)).toMatchObject({ method: 'POST', path: '/api/sessions/a/answer' });
  expect(JSON.parse(String(calls.at(-1)?.body))).toEqual({ option: 2, question: 'Which port?', number: 7 });
  expect([shown, closed, opened]).toEqual([[], ['a'], []]);
});

it.each([
  ['another question is open by now', { status: 409, json: { error: 'another question is open' } }, 'my-app was not answered', 'another question is open'],
  ['nothing shows that the agent took it', { json: { result: 'unconfirmed' } }, 'my-app: answer unconfirmed', /look at the terminal/],
  ['the person is signed out', { status: 401, json: { error: 'token' } }, 'my-app was not answered', /sign in/],
  ['the server does not answer', new TypeError('offline'), 'my-app was not answered', /look at the session/],
])('says so when %s, and sends the answer once', async (_, reply: Reply, title, body) => {
  await press('1', reply);
  expect(shown).toMatchObject([{ title, body: typeof body === 'string' ? body : expect.stringMatching(body) as string, data: { path: '/sessions/a' } }]);
  expect(calls.filter(({ path }) => path.endsWith('/answer'))).toHaveLength(1);
});

it('opens the session by a tap beside the buttons', async () => {
  await press('', { json: {} });
  expect(opened).toEqual(['/sessions/a']);
});

it('closes what was seen, on this device or another', async () => {
  answer = { json: [news('a', true)] };
  await handle('push');
  answer = { json: [news('b', true)] };
  await handle('push');
  expect(closed).toEqual(['a']);
});

it.each([
  ['something waits that it has shown before', [news('a', false)], 'a waits for you'],
  ['nothing waits any more', [], 'Nothing waits for you any more'],
])('shows something without a sound when %s, as browsers demand', async (_, json, title) => {
  answer = { json };
  await handle('push');
  expect(shown).toMatchObject([{ title, silent: true, renotify: false }]);
});

it.each([
  ['does not answer', new Error('offline'), 'The server did not say which: open the dashboard.'],
  ['wants a sign-in', { status: 401, json: { error: 'token' } }, 'You are signed out: open the dashboard to sign in.'],
])('says it in general words when the server %s', async (_, reply, body) => {
  answer = reply;
  await handle('push');
  expect(shown).toMatchObject([{ title: 'A session may need you', body, data: { path: '/' } }]);
});

it.each([
  ['comes too late', new DOMException('Too late', 'TimeoutError')],
  ['is dropped on its way', new TypeError('network changed')],
])('asks again by the same key when an answer %s: the server has noted its news as taken', async (_, loss) => {
  vi.stubGlobal('setTimeout', (done: () => void) => queueMicrotask(done));
  const replies = [loss, { json: [news('a', true)] }];
  calls = fakeServer(() => replies.shift() ?? {});
  await handle('push');
  const keys = calls.map(({ headers }) => headers.get('Idempotency-Key'));
  expect(keys).toEqual([expect.stringMatching(/^[\w-]{32,}$/), keys[0]]);
  expect(shown).toMatchObject([{ tag: 'a', renotify: true }]);
});

it('tells all that waits while it is still told that the server did not say what', async () => {
  answer = { json: [news('a', true)] };
  await handle('push');
  answer = new Error('offline');
  await handle('push');
  answer = { json: [news('c', false), news('b', false), news('a', false)] };
  await handle('push');
  expect(closed).toEqual(['clincus']);
  expect(shown.slice(2)).toMatchObject([{ tag: 'b', renotify: true }, { tag: 'c', renotify: true }]);
});

it('takes one push after the other, so that an older answer closes nothing that a newer one has shown', async () => {
  const steps: string[] = [];
  const answers = [[news('a', true)], [news('b', true), news('a', false)]];
  calls = fakeServer(async () => {
    const json = answers.shift();
    steps.push('asked');
    await new Promise((later) => setTimeout(later));
    steps.push('told');
    return { json };
  });
  await Promise.all([handle('push'), handle('push')]);
  expect(steps).toEqual(['asked', 'told', 'asked', 'told']);
  expect([shown.map(({ tag }) => tag), closed]).toEqual([['a', 'b'], []]);
});

it('takes the next push after one that could not be shown', async () => {
  answer = { json: [{ ...news('a', true), title: 'refused' }] };
  await handle('push').catch(() => undefined);
  answer = { json: [news('b', true)] };
  await handle('push');
  expect(shown).toMatchObject([{ tag: 'b' }]);
});

it('shows no more than four at once', async () => {
  answer = { json: ['a', 'b', 'c', 'd', 'e'].map((id) => news(id, true)) };
  await handle('push');
  expect(shown.map(({ tag }) => tag)).toEqual(['d', 'c', 'b', 'a']);
});

it.each([
  ['the focused window', [someWindow(false), someWindow(true)], 1],
  ['any other', [someWindow(false)], 0],
])('leads to the session in %s', async (_, open, index) => {
  windows = open;
  await handle('notificationclick', { notification: { close: () => undefined, data: { path: '/sessions/a' } } });
  expect(windows[index]?.messages).toEqual([{ type: 'open', path: '/sessions/a' }]);
  expect(opened).toEqual([]);
});

it.each([
  ['no page listens, as at the sign-in', someWindow(true, false)],
  ['the browser does not let it come to the front', someWindow(true, true, false)],
])('opens another window where %s', async (_, one) => {
  windows = [one];
  await handle('notificationclick', { notification: { close: () => undefined, data: { path: '/sessions/a' } } });
  expect(opened).toEqual(['/sessions/a']);
});

it('opens a window where there is none', async () => {
  await handle('notificationclick', { notification: { close: () => undefined, data: { path: '/sessions/a' } } });
  expect(opened).toEqual(['/sessions/a']);
});

it('gives the server the subscription that the browser has made anew', async () => {
  answer = { status: 201, json: {} };
  await handle('pushsubscriptionchange', { oldSubscription: { endpoint: ENDPOINT, options: {} } });
  expect(calls.map(({ body }) => JSON.parse(String(body)) as unknown)).toEqual([{ endpoint: `${ENDPOINT}/new`, replaces: ID }]);
});
