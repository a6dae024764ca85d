// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Session } from '../../lib/types';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { type Call, fakeServer, type Reply, someSession } from '../../test/fakes';
import { Ports } from './ports.svelte';
import PortStrip from './PortStrip.svelte';
import PreviewPane from './PreviewPane.svelte';

const VITE = { port: 5173, addresses: ['127.0.0.1'], process: 'node', open: false, url: null };
const URL_OF_IT = 'http://5173-a.localhost:3000/?key=1';

let calls: Call[];
let answer: Reply;
let ports: Ports;
let listed: Session[];

function reply({ method, path }: Call): Reply {
  if (method === 'POST') return answer;
  if (method !== 'GET') return { status: 204 };
  return { json: path === '/api/sessions' ? listed : { ports: [VITE] } };
}

beforeEach(async () => {
  answer = { json: { url: URL_OF_IT } };
  listed = [];
  calls = fakeServer(reply);
  await sessions.refresh();
  ui.toasts = [];
  ports = new Ports('a');
  await ports.look();
});

afterEach(() => {
  cleanup();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

const asked = (): string[] => calls.filter(({ method }) => method !== 'GET').map(({ method, path }) => `${method} ${path}`);
const button = (name: string) => screen.findByRole('button', { name });

/** A tab as `window.open` gives it. */
function fakeTab() {
  const tab = { opener: window as unknown, location: { replace: vi.fn() }, close: vi.fn() };
  vi.spyOn(window, 'open').mockReturnValue(tab as unknown as Window);
  return tab;
}

function strip(): void {
  render(PortStrip, { ports });
  flushSync();
}

it('opens a port in a tab that was made within the click and has no way back', async () => {
  const tab = fakeTab();
  strip();
  await userEvent.click(await button('Open port 5173 (node) in a new tab'));
  await vi.waitFor(() => expect(tab.location.replace).toHaveBeenCalledWith(URL_OF_IT));
  expect(tab.opener).toBeNull();
  expect(asked()).toEqual(['POST /api/sessions/a/ports/5173']);
});

it('closes the empty tab and says why when the port cannot be opened', async () => {
  const tab = fakeTab();
  answer = { status: 409, json: { error: 'nothing listens on port 5173' } };
  strip();
  await userEvent.click(await button('Open port 5173 (node) in a new tab'));
  await vi.waitFor(() => expect(tab.close).toHaveBeenCalled());
  expect(ui.toasts.map(({ text }) => text)).toEqual(['Port 5173 was not opened. Nothing listens on port 5173']);
});

it('opens nothing when the browser allows no tab', async () => {
  vi.spyOn(window, 'open').mockReturnValue(null);
  strip();
  await userEvent.click(await button('Open port 5173 (node) in a new tab'));
  expect(asked()).toEqual([]);
  expect(ui.toasts[0]?.text).toMatch(/did not allow a new tab/);
});

it('closes what is open', async () => {
  ports.list = [{ ...VITE, open: true, url: URL_OF_IT }];
  ports.shown = 5173;
  strip();
  await userEvent.click(await button('Close port 5173 (node): browsers no longer reach it'));
  await vi.waitFor(() => expect(asked()).toEqual(['DELETE /api/sessions/a/ports/5173']));
  expect(ports.shown).toBe(0);
});

it('shows the name of a process as text', async () => {
  ports.list = [{ ...VITE, process: '<b>node</b>' }];
  strip();
  await button('Open port 5173 (<b>node</b>) in a new tab');
});

it('opens nothing while the engine of the session does not answer, and says why', async () => {
  listed = [someSession({ id: 'a', engine: 'far', unreachable_since: '2026-01-01T13:00:00Z' })];
  await sessions.refresh();
  strip();
  const chip = await screen.findByRole<HTMLButtonElement>('button', { name: 'Open port 5173 (node) in a new tab' });
  expect(chip.disabled).toBe(true);
  expect(chip.dataset['tip']).toBe('far does not answer');
});

it('says before the click what remains open when the network of the session is closed', async () => {
  strip();
  await button('Open port 5173 (node) in a new tab');
  expect(screen.queryByText(/which has a network/)).toBeNull();
  listed = [someSession({ id: 'a', network: { mode: 'none', refused: 0 } })];
  await sessions.refresh();
  await screen.findByText(/which has a network/);
  await screen.findByText(/WebRTC/);
});

it('keeps its place while a server restarts', async () => {
  ports.list = [];
  strip();
  expect(ports.known).toBe(true);
  await screen.findByText('Nothing listens in the container now.');
});

it('previews a port in a sandbox, and asks for a new address to reload it', async () => {
  // The stand-in for a browser loads no frames, and says so.
  vi.spyOn(console, 'error').mockReturnValue();
  ports.shown = 5173;
  render(PreviewPane, { ports });
  flushSync();
  const frame = await screen.findByTitle<HTMLIFrameElement>('Port 5173 of the container');
  expect(frame.getAttribute('src')).toBe(URL_OF_IT);
  expect(frame.getAttribute('sandbox')).not.toMatch(/top-navigation|escape/);
  expect(frame.getAttribute('sandbox')).toMatch(/allow-popups/);
  await userEvent.click(await button('Reload'));
  await vi.waitFor(() => expect(asked()).toHaveLength(2));
});
