// @vitest-environment happy-dom
import { cleanup, render, screen, within } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Network, NetworkChange } from '../../lib/types';
import { type Call, fakeServer, someSession } from '../../test/fakes';
import NetworkPane from './NetworkPane.svelte';

const REFUSED = { host: 'tracker.example', port: 443, count: 12, last: '2026-01-01T12:00:00Z', reason: 'not on the list' };
const PASSED = { host: 'pypi.org', port: 443, count: 2, last: '2026-01-01T12:00:00Z', sent: 1500, received: 2_500_000 };
const NPM = { name: 'npm', title: 'npm', hosts: ['registry.npmjs.org'] };

let calls: Call[];
let network: Network;
let refusal: string;

beforeEach(() => {
  refusal = '';
  network = { mode: 'allow-list', allow: ['pypi.org'], presets: ['claude'], preset_hosts: [{ name: 'claude', hosts: ['api.anthropic.com'] }], refused: [REFUSED], passed: [PASSED], lent: [], alarms: [], truncated: false };
  calls = fakeServer(({ method, path, body }) => {
    if (method === 'PATCH' && refusal) return { status: 400, json: { error: refusal } };
    if (method === 'PATCH') {
      const { network: mode = network.mode, allow = network.allow } = JSON.parse(body as string) as NetworkChange;
      network = { ...network, mode, allow };
      return { json: someSession() };
    }
    if (path === '/api/network/presets') return { json: { presets: [NPM], default: { mode: 'open', allow: [], presets: [] } } };
    return { json: path.includes('/network') ? network : [] };
  });
});

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

const patched = (): unknown[] => calls.filter(({ method }) => method === 'PATCH').map(({ body }) => JSON.parse(body as string) as unknown);
const button = (name: string) => screen.findByRole<HTMLButtonElement>('button', { name });

function open(): void {
  render(NetworkPane, { session: someSession(), visible: true });
  flushSync();
}

it('lists what was refused and why, and allows it by a button', async () => {
  open();
  const refused = await screen.findByRole('list', { name: 'Refused' });
  expect(refused.textContent).toMatch(/tracker\.example:443.*not on the list.*12×/s);
  await userEvent.click(within(refused).getByRole('button', { name: 'Allow tracker.example' }));
  await vi.waitFor(() => expect(patched()).toEqual([{ allow: ['pypi.org', 'tracker.example'] }]));
});

it('writes the port of a name that is not of the web', async () => {
  network = { ...network, refused: [{ ...REFUSED, port: 8443 }] };
  open();
  await userEvent.click(await button('Allow tracker.example:8443'));
  await vi.waitFor(() => expect(patched()).toEqual([{ allow: ['pypi.org', 'tracker.example:8443'] }]));
});

it('lists what passed with its bytes', async () => {
  open();
  expect((await screen.findByRole('list', { name: 'Allowed traffic' })).textContent).toMatch(/pypi\.org.*1\.5 KB sent.*2\.5 MB received.*2×/s);
});

it('takes a name off', async () => {
  open();
  await userEvent.click(await button('Remove pypi.org'));
  await vi.waitFor(() => expect(patched()).toEqual([{ allow: [] }]));
});

it('adds the names that are typed, and a ready list', async () => {
  open();
  await userEvent.type(await screen.findByLabelText('Name to allow'), 'a.example, *.B.example{Enter}');
  await vi.waitFor(() => expect(patched()).toEqual([{ allow: ['pypi.org', 'a.example', '*.b.example'] }]));
  await userEvent.click(await button('npm'));
  await vi.waitFor(() => expect(patched()[1]).toEqual({ presets: ['claude', 'npm'] }));
});

it('says what a change of the mode does before it is made', async () => {
  open();
  await userEvent.click(await screen.findByRole('radio', { name: 'No network' }));
  expect(screen.getByText(/Within a second all connections end/)).toBeTruthy();
  expect(patched()).toEqual([]);
  await userEvent.click(await button('Change to No network'));
  await vi.waitFor(() => expect(patched()).toEqual([{ network: 'none' }]));
  expect(screen.queryByText(/Within a second/)).toBeNull();
});

it('keeps what was typed when the server refuses it', async () => {
  refusal = 'pypi is no name: write it in full';
  open();
  const field = await screen.findByLabelText<HTMLInputElement>('Name to allow');
  await userEvent.type(field, 'pypi{Enter}');
  expect(await screen.findByText('Pypi is no name: write it in full')).toBeTruthy();
  expect(field.value).toBe('pypi');
});

it('shows what a container names as text', async () => {
  network = { ...network, refused: [{ ...REFUSED, host: '<img src=x onerror=alert(1)>\u202e' }] };
  open();
  expect((await screen.findByRole('list', { name: 'Refused' })).textContent).toContain('<img src=x onerror=alert(1)>\ufffd');
  expect(document.querySelector('img')).toBeNull();
});
