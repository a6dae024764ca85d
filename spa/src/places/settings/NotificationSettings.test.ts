// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { device } from '../../state/device.svelte';
import { notifications } from '../../state/notifications.svelte';
import { ui } from '../../state/ui.svelte';
import { type Call, fakeServer } from '../../test/fakes';
import NotificationSettings from './NotificationSettings.svelte';

const at = new Date(Date.now() - 125_000).toISOString();
const last = (outcome: string, message: string) => ({ at, outcome, status: 0, message });
const DEVICES = [
  { id: 'd1', name: 'Firefox on Linux', service: '', gone: false, created_at: at, last: last('delivered', 'taken') },
  { id: 'd2', name: 'Safari on iPhone', service: '', gone: true, created_at: at, last: last('gone', 'turn it on again there') },
  { id: 'd3', name: 'Chrome on Android', service: '', gone: false, created_at: at, last: null },
];

let calls: Call[];

beforeEach(() => {
  device.id = 'd1';
  ui.toasts = [];
  vi.stubGlobal('isSecureContext', true);
  vi.stubGlobal('Notification', Object.assign(vi.fn(), { permission: 'granted' }));
  const webhook = { host: 'ntfy.sh', last: last('failed', 'answered 503') };
  calls = fakeServer(({ method }) =>
    method === 'GET' ? { json: { public_key: 'k', problem: '', devices: DEVICES, webhook } } : { status: 202, json: { at } },
  );
});

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

it('lists the devices and the webhook, each with how its last call went', async () => {
  render(NotificationSettings);
  await vi.waitFor(() => expect(screen.getAllByRole('listitem')).toHaveLength(4));
  const rows = screen.getAllByRole('listitem').map(({ textContent }) => textContent.replace(/\s+/g, ' ').trim());
  expect(rows).toEqual([
    'Firefox on Linuxthis device Delivered, 2 m ago Send test',
    'Safari on iPhone Gone: turn it on again there, 2 m ago Send test',
    'Chrome on Android Nothing was sent yet Send test',
    'Webhook at ntfy.shFailed: answered 503, 2 m ago Send test',
  ]);
});

it('sends a test late enough to lock the phone before', async () => {
  render(NotificationSettings);
  await vi.waitFor(() => expect(screen.getAllByRole('button', { name: 'Send test' })).toHaveLength(4));
  screen.getAllByRole('button', { name: 'Send test' })[2]?.click();
  await vi.waitFor(() => expect(ui.toasts.at(-1)?.text).toContain('5 seconds'));
  expect(calls.at(-1)).toMatchObject({ path: '/api/push/test', body: '{"device":"d3","delay":5}' });
});

it('removes a device', async () => {
  render(NotificationSettings);
  (await vi.waitFor(() => screen.getByRole('button', { name: 'Remove Safari on iPhone' }))).click();
  await vi.waitFor(() => expect(calls.some(({ method, path }) => method === 'DELETE' && path.endsWith('/d2'))).toBe(true));
});

it('says why this browser cannot notify, and offers no switch', () => {
  vi.stubGlobal('isSecureContext', false);
  render(NotificationSettings);
  expect(screen.getByRole('status').textContent).toContain('plain HTTP');
  expect(screen.getByRole('checkbox').hasAttribute('disabled')).toBe(true);
});

it('offers the switch as soon as the browser is told to let the page notify', async () => {
  const browser = { permission: 'denied' };
  vi.stubGlobal('Notification', browser);
  const leave = new EventTarget();
  const query = vi.fn(() => Promise.resolve(leave));
  vi.stubGlobal('navigator', { userAgent: '', permissions: { query } });
  notifications.start();
  render(NotificationSettings);
  const isOffered = () => !screen.getByRole('checkbox').hasAttribute('disabled');
  expect(isOffered()).toBe(false);
  await vi.waitFor(() => expect(query).toHaveResolved());
  browser.permission = 'granted';
  leave.dispatchEvent(new Event('change'));
  await vi.waitFor(() => expect(isOffered()).toBe(true));
  expect(screen.queryByText(/does not let this page notify you/)).toBeNull();
});
