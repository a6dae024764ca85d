// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { toolName } from '../../lib/format';
import { router } from '../../lib/router.svelte';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { workspaces } from '../../state/workspaces.svelte';
import { type Call, fakeServer, type Reply, someSession } from '../../test/fakes';
import NewSession from './NewSession.svelte';

const PROJECT = { path: '/w/my-app', name: 'my-app', root: '/w', has_config: false, active_sessions: 0 };
const OTHER = { ...PROJECT, path: '/w/other', name: 'other' };
const STARTED = someSession({ id: 'clincus-a1b2c3-1' });

const PRESETS = ['claude', 'opencode', 'npm'].map((name) => ({ name, title: `For ${name}`, hosts: [`${name}.example`] }));
const NETWORKS = { presets: PRESETS, default: { mode: 'open', allow: ['ours.example'], presets: ['tool'] } };

let calls: Call[];
let answer: () => Reply | Promise<Reply>;
let engines: unknown[];
let isNetworkKnown: boolean;
let projects: unknown[];

const ENGINE = { kind: 'local', reachable: true, since: '', error: '', version: '6.0.4', members: [], groups: [], roots: [] };

beforeEach(async () => {
  const members = [{ name: 'm1', status: 'Online', sessions: 2 }];
  engines = [{ ...ENGINE, name: '' }, { ...ENGINE, name: 'tower', kind: 'cluster', members, groups: ['gpu'], roots: ['/srv'] }];
  isNetworkKnown = true;
  projects = [PROJECT, OTHER];
  answer = () => ({ json: STARTED });
  calls = fakeServer(({ method, path }) => {
    if (method === 'POST') return answer();
    if (path === '/api/workspaces') return { json: { roots: ['/w'], expanded_roots: ['/w'], workspaces: projects } };
    if (path === '/api/engines') return { json: engines };
    if (path === '/api/network/presets') return isNetworkKnown ? { json: NETWORKS } : { status: 503, json: { error: 'the disk is full' } };
    if (path === '/api/tools') return { json: ['claude', 'opencode', 'codex', 'shell'] };
    return { json: [] };
  });
  router.go('/');
  ui.toasts = [];
  sessions.unreachable = '';
  await workspaces.refresh();
});

afterEach(() => {
  ui.newSession = null;
  window.dispatchEvent(new StorageEvent('storage', { key: 'clincus.session-choices', newValue: '{}' }));
  cleanup();
  vi.unstubAllGlobals();
});

const posted = (): unknown[] => calls.filter(({ method }) => method === 'POST').map(({ body }) => JSON.parse(body as string) as unknown);
const button = (name: string | RegExp) => screen.findByRole<HTMLButtonElement>('button', { name });

function open(...start: Parameters<typeof ui.startSession>): void {
  ui.startSession(...start);
  render(NewSession);
  flushSync();
}

const chooseTool = async (name: string): Promise<void> =>
  userEvent.selectOptions(await screen.findByRole('combobox', { name: 'Tool' }), await screen.findByRole('option', { name: toolName(name) }));

/** Unfolds what is seldom chosen. */
async function unfold(): Promise<void> {
  const details = document.querySelector('details');
  if (!details) throw new Error('there are no options');
  details.open = true;
  details.dispatchEvent(new Event('toggle'));
  await screen.findByRole('checkbox', { name: /^Persistent/ });
}

it('starts what was chosen, and goes there', async () => {
  open('/w/my-app');
  await unfold();
  await chooseTool('opencode');
  await userEvent.click(screen.getByRole('checkbox', { name: /^Persistent/ }));
  await userEvent.click(await button('Start session'));
  await vi.waitFor(() => expect(router.route).toMatchObject({ place: 'session', id: 'clincus-a1b2c3-1' }));
  expect(posted()).toEqual([{ workspace: '/w/my-app', tool: 'opencode', persistent: true }]);
  expect(ui.newSession).toBeNull();
});

it('works on a clone of a branch if asked to', async () => {
  open('/w/my-app');
  await unfold();
  await userEvent.selectOptions(screen.getByRole('combobox', { name: 'Works in' }), 'clone');
  await userEvent.type(await screen.findByLabelText('Branch to start from'), 'main');
  await userEvent.click(await button('Start session'));
  await vi.waitFor(() => expect(posted()).toMatchObject([{ workspace: '/w/my-app', mode: 'clone', branch: 'main' }]));
});

it('asks for an allow list with names of its own and of a ready list', async () => {
  open('/w/my-app');
  await unfold();
  await userEvent.click(await screen.findByRole('radio', { name: 'Allow list' }));
  await userEvent.type(await screen.findByLabelText('Allowed domains'), ' pypi.org');
  await userEvent.click(await button('For npm'));
  await userEvent.click(await button('Start session'));
  const asked = { network: 'allow-list', allow: ['ours.example', 'pypi.org'], presets: ['tool', 'npm'] };
  await vi.waitFor(() => expect(posted()).toMatchObject([asked]));
});

it('allows what the chosen tool needs, also of another tool', async () => {
  open('/w/my-app');
  await unfold();
  await userEvent.click(await screen.findByRole('radio', { name: 'Allow list' }));
  expect((await button('For claude')).getAttribute('aria-pressed')).toBe('true');
  await chooseTool('opencode');
  expect((await button('For opencode')).getAttribute('aria-pressed')).toBe('true');
  expect((await button('For claude')).getAttribute('aria-pressed')).toBe('false');
  await userEvent.click(await button('Start session'));
  await vi.waitFor(() => expect(posted()).toEqual([{ workspace: '/w/my-app', tool: 'opencode', persistent: false, network: 'allow-list' }]));
});

const nested = () => screen.findByRole<HTMLInputElement>('checkbox', { name: /Nested containers/ });

it('asks for nested containers, and says what they cost', async () => {
  open('/w/my-app');
  await unfold();
  expect(screen.getByText(/Costs the lock on your folder/)).toBeTruthy();
  await userEvent.click(await nested());
  await userEvent.click(await button('Start session'));
  await vi.waitFor(() => expect(posted()).toEqual([{ workspace: '/w/my-app', tool: 'claude', persistent: false, nesting: true }]));
});

it('asks for none on a clone, which has them anyway', async () => {
  open('/w/my-app');
  await unfold();
  await userEvent.click(await nested());
  await userEvent.selectOptions(screen.getByRole('combobox', { name: 'Works in' }), 'clone');
  expect([(await nested()).checked, (await nested()).disabled]).toEqual([true, true]);
  expect(screen.getByText(/On a clone they run anyway/)).toBeTruthy();
  await userEvent.click(await button('Start session'));
  await vi.waitFor(() => expect(posted()).toEqual([{ workspace: '/w/my-app', tool: 'claude', persistent: false, mode: 'clone' }]));
});

it('starts with what is sealed now where it is not what it was, if the person says so', async () => {
  answer = () => ({ status: 409, json: { error: '.git/config was replaced; look at it, or start with "accept_changes": true' } });
  open('/w/my-app');
  await userEvent.click(await button('Start session'));
  expect(await screen.findByText(/^\.git\/config was replaced\./)).toBeTruthy();
  answer = () => ({ json: STARTED });
  await userEvent.click(await button('Seal it and start'));
  await vi.waitFor(() => expect(ui.newSession).toBeNull());
  expect(posted().map((body) => (body as { accept_changes?: boolean }).accept_changes)).toEqual([undefined, true]);
});

it('leaves the network to the configuration unless something else is chosen', async () => {
  open('/w/my-app');
  await unfold();
  await userEvent.click(await screen.findByRole('radio', { name: 'No network' }));
  await userEvent.click(screen.getByRole('radio', { name: 'Open' }));
  await userEvent.click(await button('Start session'));
  await vi.waitFor(() => expect(posted()).toEqual([{ workspace: '/w/my-app', tool: 'claude', persistent: false }]));
});

it('offers the engines of the config, each with what is wrong', async () => {
  engines = [engines[0], { ...ENGINE, name: 'tower', kind: 'remote', reachable: false, error: 'it cannot be reached' }];
  open('/w/my-app');
  await unfold();
  const offered = await screen.findByRole('combobox', { name: 'Runs on' });
  expect([...offered.querySelectorAll('option')].map((one) => one.textContent)).toEqual(['This host', 'tower (unreachable)']);
});

it('asks nothing about engines where there are none', async () => {
  engines = [engines[0]];
  open('/w/my-app');
  await unfold();
  await button('Start session');
  expect(screen.queryByRole('combobox', { name: 'Runs on' })).toBeNull();
});

it('says of a tool that the standard image lacks it', async () => {
  const lacks = () => screen.queryByText(/^The standard image doesn’t include Codex/);
  open('/w/my-app');
  await chooseTool('opencode');
  expect(lacks()).toBeNull();
  await chooseTool('codex');
  expect(lacks()).not.toBeNull();
});

it('cannot start without a project', async () => {
  open();
  expect((await button('Start session')).disabled).toBe(true);
});

it('takes the only project there is, so that a prompt and a key are enough', async () => {
  projects = [PROJECT];
  await workspaces.refresh();
  open();
  await userEvent.type(await promptBox(), 'Fix it{Control>}{Enter}{/Control}');
  await vi.waitFor(() => expect(posted()).toMatchObject([{ workspace: '/w/my-app', prompt: 'Fix it' }]));
});

it('has for each project what was chosen last, and says what is not as configured', async () => {
  open('/w/my-app');
  await unfold();
  await chooseTool('opencode');
  await userEvent.click(await nested());
  await userEvent.click(await button('Start session'));
  await vi.waitFor(() => expect(ui.newSession).toBeNull());
  cleanup();
  open('/w/other');
  expect((screen.getByRole<HTMLSelectElement>('combobox', { name: 'Tool' })).value).toBe('claude');
  cleanup();
  open();
  expect(await button('Project: my-app')).toBeTruthy();
  expect((screen.getByRole<HTMLSelectElement>('combobox', { name: 'Tool' })).value).toBe('opencode');
  expect(screen.getByText('nested containers')).toBeTruthy();
  await userEvent.click(await button('Start session'));
  await vi.waitFor(() => expect(posted().at(-1)).toEqual({ workspace: '/w/my-app', tool: 'opencode', persistent: false, nesting: true }));
});

it('keeps a prompt as a template of its project', async () => {
  open('/w/my-app');
  await userEvent.type(await promptBox(), 'Run the tests');
  await userEvent.click(await button('Templates'));
  await userEvent.click(await button('Save the prompt as a template'));
  await userEvent.clear(await promptBox());
  await userEvent.click(await button('Run the tests'));
  expect((await promptBox()).value).toBe('Run the tests');
  await userEvent.click(await button('Delete this template'));
  expect(screen.queryByRole('button', { name: 'Run the tests' })).toBeNull();
  await userEvent.clear(await promptBox());
});

it('says why it cannot start while Incus is away', async () => {
  sessions.unreachable = 'The daemon does not answer.';
  open('/w/my-app');
  expect((await button('Start session')).disabled).toBe(true);
  expect(screen.getByText('Not now: Incus does not answer.')).toBeTruthy();
});

it('keeps a failure with all that was chosen, and tries again', async () => {
  answer = () => ({ status: 409, json: { error: 'no slot is free' } });
  open('/w/my-app');
  await userEvent.click(await button('Start session'));
  expect(await screen.findByText('No slot is free')).toBeTruthy();
  answer = () => ({ json: STARTED });
  await userEvent.click(await button('Try again'));
  await vi.waitFor(() => expect(ui.newSession).toBeNull());
  expect(posted()).toHaveLength(2);
});

const promptBox = () => screen.findByRole<HTMLTextAreaElement>('textbox', { name: 'First prompt' });

it('gives the tool its first prompt, by the key that sends', async () => {
  open('/w/my-app');
  await userEvent.type(await promptBox(), 'Fix the totals.{Enter}All of them.{Control>}{Enter}{/Control}');
  const prompt = 'Fix the totals.\nAll of them.';
  await vi.waitFor(() => expect(posted()).toEqual([{ workspace: '/w/my-app', tool: 'claude', persistent: false, prompt }]));
  await vi.waitFor(() => expect(ui.newSession).toBeNull());
  ui.startSession('/w/my-app');
  flushSync();
  expect((await promptBox()).value).toBe('');
});

it('keeps the first prompt when it is closed, and gives none to a shell', async () => {
  open('/w/my-app');
  await userEvent.type(await promptBox(), 'Fix it');
  await userEvent.click(await button('Cancel'));
  ui.startSession('/w/my-app');
  flushSync();
  expect((await promptBox()).value).toBe('Fix it');
  await chooseTool('shell');
  expect(screen.queryByRole('textbox', { name: 'First prompt' })).toBeNull();
});

it('starts nothing twice when the answer of a try was lost', async () => {
  answer = () => new DOMException('late', 'TimeoutError');
  open('/w/my-app');
  await userEvent.click(await button('Start session'));
  answer = () => ({ json: STARTED });
  await userEvent.click(await button('Try again'));
  await vi.waitFor(() => expect(ui.newSession).toBeNull());
  const keys = calls.filter(({ method }) => method === 'POST').map(({ headers }) => headers.get('Idempotency-Key'));
  expect(keys).toHaveLength(2);
  expect(new Set(keys).size).toBe(1);
});

it('says why the network cannot be chosen, and looks again', async () => {
  isNetworkKnown = false;
  open('/w/my-app');
  await unfold();
  expect(await screen.findByText(/The network cannot be chosen/)).toBeTruthy();
  isNetworkKnown = true;
  await userEvent.click(await button('Try again'));
  expect(await screen.findByRole('radio', { name: 'Allow list' })).toBeTruthy();
});

it('goes on in the background when it is closed, and tells how it went', async () => {
  let arrive = (): void => undefined;
  answer = () => new Promise((resolve) => (arrive = () => resolve({ status: 500, json: { error: 'the disk is full' } })));
  open('/w/my-app');
  await userEvent.click(await button('Start session'));
  await userEvent.click(await button('Continue in background'));
  arrive();
  await vi.waitFor(() => expect(ui.toasts.map(({ text }) => text)).toEqual(['my-app did not start. The disk is full']));
  expect(sessions.creations).toEqual([]);
});

it('goes on with a conversation', async () => {
  const ended_at = '2026-01-01T13:00:00Z';
  const entry = { ...STARTED, session_id: 'abc', started_at: '2026-01-01T12:00:00Z', ended_at, exit_code: 0, prompt: '', branch: '', cost_usd: null };
  open('/w/my-app', entry);
  expect(screen.getByText(/Continues the conversation of/)).toBeTruthy();
  await userEvent.click(await button('Start session'));
  await vi.waitFor(() => expect(posted()).toMatchObject([{ workspace: '/w/my-app', tool: 'claude', resume: 'abc' }]));
});

it('goes on to the prompt when a project is chosen', async () => {
  open();
  await userEvent.click(await screen.findByRole('option', { name: /my-app/ }));
  await vi.waitFor(() => expect(document.activeElement).toBe(screen.getByRole('textbox', { name: 'First prompt' })));
});

it('has the first prompt again when a phone has dropped the page', async () => {
  open('/w/my-app');
  await userEvent.type(await promptBox(), 'Fix the totals');
  cleanup();
  open('/w/my-app');
  expect((await promptBox()).value).toBe('Fix the totals');
  await userEvent.clear(await promptBox());
});
