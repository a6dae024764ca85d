import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Session } from '../lib/types';
import { Notifications } from './notifications.svelte';

const LATER = new Date(Date.now() + 1000).toISOString();
const LATEST = new Date(Date.now() + 2000).toISOString();

let shown: string[];
let leave: NotificationPermission;

class FakeNotification {
  static requestPermission = () => Promise.resolve(leave);
  constructor(
    title: string,
    readonly options: NotificationOptions,
  ) {
    shown.push(title);
  }
}

function waiting(rang_at: string): Session {
  return { id: 'a', workspace: '/w/my-app', tool: 'claude', slot: 1, status: 'running', persistent: false, rang_at };
}

beforeEach(() => {
  shown = [];
  leave = 'granted';
  vi.stubGlobal('Notification', FakeNotification);
});

afterEach(() => vi.unstubAllGlobals());

it('tells of each new bell once, while nobody is at the page', async () => {
  const notifications = new Notifications();
  notifications.tell([waiting('2026-01-01T00:00:00Z')], false);
  await notifications.turn(true);
  for (const rang_at of [LATER, LATER, LATEST]) notifications.tell([waiting(rang_at)], false);
  expect(shown).toEqual(['my-app needs you', 'my-app needs you']);
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
  expect(shown).toEqual([]);
});
