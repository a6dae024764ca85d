import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { deviceId } from '../lib/device';
import type { Push, Session } from '../lib/types';
import { type Call, fakeServer, someSealedChange, someSession } from '../test/fakes';
import { device } from './device.svelte';
import { Notifications, obstacle } from './notifications.svelte';
import { ui } from './ui.svelte';

const LATER = new Date(Date.now() + 1000).toISOString();
const LATEST = new Date(Date.now() + 2000).toISOString();

let shown: string[];
let given: NotificationOptions[];
let leave: NotificationPermission;
let mayConstruct: boolean;
let worker: { active: boolean; showNotification: (title: string) => void; getNotifications: () => unknown[] } | undefined;
let calls: Call[];
let status: number;
let wishes: Partial<Push>;

class FakeNotification {
  static requestPermission = () => Promise.resolve(leave);
  static get permission(): NotificationPermission {
    return leave;
  }

  constructor(
    title: string,
    readonly options: NotificationOptions,
  ) {
    if (!mayConstruct) throw new TypeError('Illegal constructor');
    shown.push(title);
    given.push(options);
  }

  close(): void {
    // The test looks at what was shown, not for how long.
  }
}

const rings = (rang_at: string): Session => someSession({ rang_at });
const frozen = (at: string): Session =>
  someSession({ status: 'stopped', paused: true, protection: 'broken', protection_changes: [someSealedChange({ at })] });
const agent = (state: Session['agent']['state'], since: string): Session =>
  someSession({ agent: { ...someSession().agent, state, since, seen: false } });

/** Lets what was begun come to its end: a request and what follows from its answer. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setTimeout(resolve));
}

beforeEach(() => {
  shown = [];
  given = [];
  leave = 'granted';
  mayConstruct = true;
  worker = undefined;
  status = 204;
  wishes = { on: ['waiting', 'done', 'failed', 'stuck'], is_quiet: false };
  device.sound.current = true;
  ui.toasts = [];
  device.id = '';
  vi.stubGlobal('isSecureContext', true);
  vi.stubGlobal('Notification', FakeNotification);
  vi.stubGlobal('navigator', {
    userAgent: 'Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Firefox/144.0',
    maxTouchPoints: 0,
    serviceWorker: { getRegistration: () => Promise.resolve(worker) },
  });
  calls = fakeServer(({ path }) =>
    path === '/api/push' ? { json: { public_key: '', problem: 'No openssl.', devices: [], ...wishes } } : { status },
  );
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

async function turnedOn(): Promise<Notifications> {
  const notifications = new Notifications();
  await notifications.turn(true);
  return notifications;
}

it.each([
  ['bell', rings(LATER), rings(LATEST), 'my-app needs you'],
  ['state of a tool', agent('waiting', LATER), agent('done', LATEST), 'my-app needs you'],
  ['broken seal', frozen(LATER), frozen(LATEST), 'my-app was frozen: something that it may not change was changed'],
])('tells of each new %s once, while nobody is at the page', async (_, first, second, words) => {
  const notifications = new Notifications();
  notifications.tell([rings('2026-01-01T00:00:00Z')], false);
  await notifications.turn(true);
  for (const session of [first, first, second]) {
    notifications.tell([session], false);
    await settle();
  }
  expect(shown).toEqual([words, words]);
  expect(given).toEqual(Array(2).fill({ tag: 'a', renotify: true, silent: false, icon: '/icon-192.png', data: { path: '/sessions/a' } }));
});

it.each([
  ['the person is at the page', 'granted', true, LATER, ''],
  ['the browser refuses', 'denied', false, LATER, ''],
  ['it began before the page was opened', 'granted', false, '2026-01-01T00:00:00Z', ''],
  ['the server pushes to this device', 'granted', false, LATER, 'd1'],
] as const)('says nothing when %s', async (_, permission, here, rang_at, id) => {
  leave = permission;
  const notifications = await turnedOn();
  device.id = id;
  expect(notifications.on).toBe(permission === 'granted');
  notifications.tell([rings(rang_at)], here);
  await settle();
  expect(shown).toEqual([]);
});

it.each([
  ['the person wants no call for it', { on: ['done'] }, agent('waiting', LATER)],
  ['these are quiet hours', { is_quiet: true }, agent('waiting', LATER)],
  ['its session is muted', {}, { ...agent('waiting', LATER), muted: true }],
])('says nothing when %s', async (_, wanted: Partial<Push>, session) => {
  wishes = { ...wishes, ...wanted };
  (await turnedOn()).tell([session], false);
  await settle();
  expect(shown).toEqual([]);
});

it('tells of a broken seal of a muted session', async () => {
  (await turnedOn()).tell([{ ...frozen(LATER), muted: true }], false);
  await settle();
  expect(shown).toHaveLength(1);
});

it('says nothing of what is over by the time that the server has said what is wanted', async () => {
  const notifications = await turnedOn();
  notifications.tell([agent('waiting', LATER)], false);
  notifications.tell([], false);
  await settle();
  expect(shown).toEqual([]);
});

it('makes no sound where the person wants none on this device', async () => {
  const notifications = await turnedOn();
  device.sound.current = false;
  notifications.tell([rings(LATER)], false);
  await settle();
  expect(given).toMatchObject([{ silent: true, renotify: false }]);
});

it('tells by the worker where there is one, as Android demands', async () => {
  const told: string[] = [];
  worker = { active: true, showNotification: (title) => told.push(title), getNotifications: () => [] };
  mayConstruct = false;
  (await turnedOn()).tell([rings(LATER)], false);
  await settle();
  expect(told).toEqual(['my-app needs you']);
});

it('says it in the page when the browser throws after all', async () => {
  const notifications = await turnedOn();
  mayConstruct = false;
  notifications.tell([rings(LATER)], false);
  await settle();
  expect(ui.toasts.at(-1)?.text).toBe('my-app needs you.');
});

it('takes a notification back once its session needs nobody, or was seen', async () => {
  const closed: string[] = [];
  const notification = (tag: string, path: string) => ({ tag, data: { path }, close: () => closed.push(tag) });
  const getNotifications = () => [notification('a', '/sessions/a'), notification('b', '/sessions/b'), notification('test', '/')];
  worker = { active: true, showNotification: () => undefined, getNotifications };
  const waiting = { ...agent('waiting', LATER), id: 'b' };
  const notifications = await turnedOn();
  notifications.tell([waiting], true);
  await settle();
  expect(closed).toEqual(['a']);
  notifications.tell([{ ...waiting, agent: { ...waiting.agent, seen: true } }], true);
  await settle();
  expect(closed).toEqual(['a', 'a', 'b']);
});

it.each([
  ['HTTPS', { isSecureContext: false }],
  ['no notifications for pages', { Notification: undefined }],
])('stays off where the browser cannot, and says why: %s', async (word, globals) => {
  for (const [name, value] of Object.entries(globals)) vi.stubGlobal(name, value);
  if ('Notification' in globals) Reflect.deleteProperty(globalThis, 'Notification');
  const notifications = await turnedOn();
  expect([notifications.on, ui.toasts.at(-1)?.text]).toEqual([false, expect.stringContaining(word)]);
});

it('tells the server while the person is here, and when they go', async () => {
  vi.useFakeTimers();
  device.id = 'd1';
  const notifications = new Notifications();
  const leaveIt = notifications.report(true);
  await vi.advanceTimersByTimeAsync(45_000);
  leaveIt();
  notifications.report(false)();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(calls.map(({ path, body }) => [path, body])).toEqual(
    [true, true, true, false].map((here) => ['/api/push/subscriptions/d1/presence', JSON.stringify({ here })]),
  );
});

it('says nothing of a browser that gets no pushes', () => {
  new Notifications().report(true)();
  expect(calls).toEqual([]);
});

it('is off once the browser has taken its leave back', async () => {
  const notifications = await turnedOn();
  expect(notifications.on).toBe(true);
  leave = 'denied';
  expect([notifications.on, obstacle()]).toEqual([false, expect.stringContaining('allow it in the site’s settings')]);
});

const OLD = { endpoint: 'https://push/old', id: 'OLD' };
const NEW = { endpoint: 'https://push/new', id: 'NEW' };

/** A browser with push, whose subscription is this one. */
function withPush({ endpoint }: typeof OLD): void {
  const options = { applicationServerKey: new Uint8Array([4]).buffer };
  const unsubscribe = vi.fn(() => Promise.resolve(true));
  const registered = { pushManager: { getSubscription: () => Promise.resolve({ endpoint, options, unsubscribe }) } };
  const ready = Promise.resolve();
  const register = () => Promise.resolve(registered);
  const getRegistration = register;
  vi.stubGlobal('navigator', {
    userAgent: '',
    maxTouchPoints: 0,
    serviceWorker: { addEventListener: () => undefined, ready, register, getRegistration },
  });
  calls = fakeServer(({ method, path }) => {
    if (path === '/api/push') return { json: { public_key: 'BA', problem: '', devices: [] } };
    if (method === 'POST' && path === '/api/push/subscriptions') return { status: 201, json: { id: NEW.id } };
    return { status };
  });
}

const subscribed = () => calls.filter(({ method, path }) => method === 'POST' && path === '/api/push/subscriptions');

it('takes over the subscription that its worker has renewed, and stays on', async () => {
  const notifications = await turnedOn();
  withPush(NEW);
  device.id = OLD.id;
  status = 404;
  notifications.report(false);
  await vi.waitFor(() => expect(device.id).toBe(NEW.id));
  expect(subscribed().map(({ body }) => JSON.parse(String(body)) as unknown)).toMatchObject([{ endpoint: NEW.endpoint, replaces: OLD.id }]);
  expect([notifications.on, ui.toasts]).toEqual([true, []]);
});

it.each([
  ['gives the server', NEW, 1],
  ['leaves alone', OLD, 0],
])('%s at its start a subscription that it knows or not', async (_, subscription, times) => {
  const notifications = await turnedOn();
  withPush(subscription);
  device.id = await deviceId(OLD.endpoint);
  notifications.start();
  await settle();
  await vi.waitFor(() => expect(subscribed()).toHaveLength(times));
});

it('turns itself off, and says so, when this device was removed on another one', async () => {
  const notifications = await turnedOn();
  device.id = 'd1';
  status = 410;
  notifications.report(false);
  await vi.waitFor(() => expect(ui.toasts.at(-1)?.text).toContain('was removed'));
  expect([notifications.on, device.id]).toEqual([false, '']);
});
