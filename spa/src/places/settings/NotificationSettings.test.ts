// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { tick } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { device } from '../../state/device.svelte';
import { notifications } from '../../state/notifications.svelte';
import { push } from '../../state/push.svelte';
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
let wishes: object;
let refusal: string;
/** What the answer to the next GET waits for, which is made before, and whether one does. */
let hold: Promise<void> | undefined;
let held: boolean;

/** A choice once the server has said what holds. */
const choice = (name: RegExp) => screen.findByRole<HTMLInputElement>('checkbox', { name });
/** What the page has asked the server to change. */
const changes = () => calls.filter(({ method }) => method === 'PATCH').map(({ body }) => JSON.parse(String(body)) as unknown);

beforeEach(() => {
  device.id = 'd1';
  device.sound.current = true;
  push.current = null;
  refusal = '';
  hold = undefined;
  held = false;
  ui.toasts = [];
  vi.stubGlobal('isSecureContext', true);
  vi.stubGlobal('Notification', Object.assign(vi.fn(), { permission: 'granted' }));
  const webhook = { host: 'ntfy.sh', last: last('failed', 'answered 503') };
  wishes = { on: ['waiting', 'done', 'failed', 'stuck'], quiet: true, with_text: false, quiet_hours: '', zone: '', is_quiet: false };
  calls = fakeServer(async ({ method, path, body }) => {
    if (path !== '/api/push') return { status: 202, json: { at } };
    if (method === 'PATCH' && refusal) return { status: 409, json: { error: refusal } };
    if (method === 'PATCH') wishes = { ...wishes, ...(JSON.parse(String(body)) as object) };
    const json = { public_key: 'k', problem: '', devices: DEVICES, webhook, ...wishes };
    if (method === 'GET' && hold) {
      held = true;
      await hold;
    }
    return { json };
  });
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
  expect(screen.getByLabelText('Notify me when a session needs me').hasAttribute('disabled')).toBe(true);
});

it.each([
  ['as soon as the browser is told to let the page notify', true],
  ['although the browser was told to before the page could hear of it', false],
])('offers the switch %s', async (_, heard) => {
  const browser = { permission: 'denied' };
  vi.stubGlobal('Notification', browser);
  const leave = new EventTarget();
  let answer: (leave: EventTarget) => void = () => undefined;
  const query = vi.fn(() => new Promise<EventTarget>((done) => (answer = done)));
  vi.stubGlobal('navigator', { userAgent: '', permissions: { query } });
  notifications.start();
  render(NotificationSettings);
  const isOffered = () => !screen.getByLabelText('Notify me when a session needs me').hasAttribute('disabled');
  expect(isOffered()).toBe(false);
  if (heard) answer(leave);
  if (heard) await vi.waitFor(() => expect(query).toHaveResolved());
  browser.permission = 'granted';
  if (heard) leave.dispatchEvent(new Event('change'));
  else answer(leave);
  await vi.waitFor(() => expect(isOffered()).toBe(true));
  expect(screen.queryByText(/does not let this page notify you/)).toBeNull();
});

it.each([
  [/is done/, { on: ['waiting', 'failed', 'stuck'] }],
  [/Not on a device/, { quiet: false }],
  [/Show what the agent says/, { with_text: true }],
  [/Quiet hours/, { quiet_hours: '22:00-07:00', zone: Intl.DateTimeFormat().resolvedOptions().timeZone }],
])('keeps the choice %s at the server, and shows what it says', async (name, change) => {
  render(NotificationSettings);
  const before = (await choice(name)).checked;
  (await choice(name)).click();
  await vi.waitFor(() => expect(changes()).toEqual([change]));
  await vi.waitFor(async () => expect((await choice(name)).checked).toBe(!before));
});

it('keeps a choice that is made while an older answer is on its way', async () => {
  render(NotificationSettings);
  const text = await choice(/Show what the agent says/);
  let arrive = (): void => undefined;
  hold = new Promise((done) => (arrive = done));
  const late = push.refresh();
  await vi.waitFor(() => expect(held).toBe(true));
  text.click();
  await vi.waitFor(() => expect(push.current?.with_text).toBe(true));
  arrive();
  await late;
  await tick();
  expect(text.checked).toBe(true);
});

it('keeps each of two choices that are made while the server answers', async () => {
  render(NotificationSettings);
  const [done, failed] = [await choice(/is done/), await choice(/has failed/)];
  done.click();
  failed.click();
  await vi.waitFor(() => expect(changes()).toHaveLength(2));
  expect(changes()[1]).toEqual({ on: ['waiting', 'stuck'] });
});

it('shows what holds again where the server refuses a choice', async () => {
  refusal = 'the config file is broken';
  render(NotificationSettings);
  (await choice(/is done/)).click();
  await vi.waitFor(() => expect(ui.toasts.at(-1)?.text).toContain('config file is broken'));
  await vi.waitFor(async () => expect((await choice(/is done/)).checked).toBe(true));
});

it('changes the quiet hours, in the time zone of the person', async () => {
  Object.assign(wishes, { quiet_hours: '22:00-07:00', zone: 'Mars/Olympus' });
  render(NotificationSettings);
  const until = await screen.findByLabelText<HTMLInputElement>('Quiet until');
  expect(screen.getByText('in Mars/Olympus')).toBeTruthy();
  until.value = '06:30';
  until.dispatchEvent(new Event('change', { bubbles: true }));
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  await vi.waitFor(() => expect(changes()).toEqual([{ quiet_hours: '22:00-06:30', zone: timeZone }]));
  await vi.waitFor(() => expect(screen.queryByText('in Mars/Olympus')).toBeNull());
});
