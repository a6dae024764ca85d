// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, expect, it, vi } from 'vitest';

import { fakeServer, type Reply } from '../../test/fakes';
import TranscriptPane from './TranscriptPane.svelte';

const EMPTY = { state: 'ready', tool: 'claude', conversation: 'one', saved_at: null, messages: [], start: 0, end: 0, size: 0 };
const SAID = { id: '0.0', at: null, role: 'agent', kind: 'text', text: '**Done** <b>it</b>', tool: null, title: null, call: null, failed: false, cut: false };

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

function open(reply: Reply): void {
  fakeServer(() => reply);
  render(TranscriptPane, { id: 'a', tool: 'codex', visible: true });
}

it.each([
  [{ ...EMPTY, state: 'none', conversation: null }, 'Nothing is saved yet'],
  [{ ...EMPTY, state: 'unreadable', tool: 'codex', conversation: null }, 'This tool’s conversation cannot be read'],
])('says why there is nothing to read', async (json, title) => {
  open({ json });
  expect(await screen.findByRole('heading', { name: title })).toBeTruthy();
  expect(screen.getByRole<HTMLInputElement>('searchbox').disabled).toBe(true);
});

it('says that the server did not answer, and tries again', async () => {
  open({ status: 503, json: { error: 'Incus does not answer' } });
  expect(await screen.findByText('Incus does not answer')).toBeTruthy();
  fakeServer(() => ({ json: { ...EMPTY, messages: [SAID] } }));
  screen.getByRole('button', { name: 'Try again' }).click();
  expect(await screen.findByRole('article', { name: 'Claude Code' })).toBeTruthy();
});

it('draws Markdown as parts of the page, and HTML as text', async () => {
  open({ json: { ...EMPTY, messages: [SAID] } });
  const article = await screen.findByRole('article', { name: 'Claude Code' });
  expect(article.querySelector('.markdown strong')?.textContent).toBe('Done');
  expect(article.querySelector('b')).toBeNull();
  expect(article.textContent).toContain('<b>it</b>');
});
