import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Session } from '../lib/types';
import { someSession } from '../test/fakes';
import { Notifications } from './notifications.svelte';
import { ui } from './ui.svelte';

const LATER = new Date(Date.now() + 1000).toISOString();
const LATEST = new Date(Date.now() + 2000).toISOString();

let shown: string[];
let given: NotificationOptions[];
let leave: NotificationPermission;
let mayConstruct: boolean;

class FakeNotification {
  static requestPermission = () => Promise.resolve(leave);
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

const waiting = (rang_at: string): Session => someSession({ rang_at });

beforeEach(() => {
  shown = [];
  given = [];
  leave = 'granted';
  mayConstruct = true;
  ui.toasts = [];
  vi.stubGlobal('isSecureContext', true);
  vi.stubGlobal('Notification', FakeNotification);
});

afterEach(() => vi.unstubAllGlobals());

it('tells of each new bell once, while nobody is at the page', async () => {
  const notifications = new Notifications();
  notifications.tell([waiting('2026-01-01T00:00:00Z')], false);
  await notifications.turn(true);
  for (const rang_at of [LATER, LATER, LATEST]) notifications.tell([waiting(rang_at)], false);
  expect(shown).toEqual(['Clincus', 'my-app needs you', 'my-app needs you']);
  expect(given.slice(1)).toEqual(Array(2).fill({ tag: 'a', renotify: true, icon: '/icon-192.png' }));
});

it.each([
  ['the person is at the page', 'granted', true, LATER],
  ['the browser refuses', 'denied', false, LATER],
  ['it rang before the page was opened', 'granted', false, '2026-01-01T00:00:00Z'],
] as const)('says nothing when %s', async (_, permission, here, rang_at) => {
  leave = permission;
  const notifications = new Notifications();
  await notifications.turn(true);
  expect(notifications.on).toBe(permission === 'granted');
  notifications.tell([waiting(rang_at)], here);
  expect(shown.filter((title) => title !== 'Clincus')).toEqual([]);
});

it('stays off where the browser throws, as on Android, and says why', async () => {
  mayConstruct = false;
  const notifications = new Notifications();
  await notifications.turn(true);
  expect([notifications.on, ui.toasts.at(-1)?.text]).toEqual([false, expect.stringContaining('service workers only')]);
});

it('stays off over plain HTTP from another machine, and says why', async () => {
  vi.stubGlobal('isSecureContext', false);
  const notifications = new Notifications();
  await notifications.turn(true);
  expect([notifications.on, ui.toasts.at(-1)?.text]).toEqual([false, expect.stringContaining('HTTPS')]);
});

it('says it in the page when the browser throws after all', async () => {
  const notifications = new Notifications();
  await notifications.turn(true);
  mayConstruct = false;
  notifications.tell([waiting(LATER)], false);
  expect(ui.toasts.at(-1)?.text).toBe('my-app needs you.');
});
