// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Agent, Prompt, Session } from '../../lib/types';
import { prompts } from '../../state/prompts.svelte';
import { sessions } from '../../state/sessions.svelte';
import { type Call, fakeServer, type Reply, someAgent, someSession } from '../../test/fakes';
import Composer from './Composer.svelte';

let calls: Call[];
let listed: Prompt[];
let session: Session;
let answer: (call: Call) => Reply;

beforeEach(() => {
  listed = [];
  answer = () => ({ json: { prompt_id: 'p', result: 'submitted' } });
  calls = fakeServer((call) => {
    if (call.path.endsWith('/prompts')) return { json: listed };
    if (call.path === '/api/sessions') return { json: [session] };
    return answer(call);
  });
});

afterEach(() => {
  cleanup();
  prompts.write('a', '');
  vi.unstubAllGlobals();
});

async function open(state: Agent['state'], fields: Partial<Agent> = {}): Promise<void> {
  session = someSession({ agent: someAgent(state, fields) });
  await sessions.refresh();
  render(Composer, { session, visible: true });
}

const box = () => screen.getByRole<HTMLTextAreaElement>('textbox');
const posts = () => calls.filter(({ method }) => method === 'POST');
const bodies = () =>
  posts().map(({ path, body }) => [path.split('/').at(-1), typeof body === 'string' ? (JSON.parse(body) as unknown) : null]);

it('sends by Ctrl+Enter, several lines, and is empty when the tool has it', async () => {
  await open('idle');
  await userEvent.type(box(), 'one{Enter}two');
  expect(posts()).toEqual([]);
  await userEvent.keyboard('{Control>}{Enter}{/Control}');
  await screen.findByText('Claude Code has it.');
  expect([bodies(), box().value]).toEqual([[['prompt', { text: 'one\ntwo' }]], '']);
  expect(posts()[0]?.headers.get('Idempotency-Key')).toMatch(/^[\w-]{32,}$/);
});

it('keeps the text that the tool did not confirm, and says so', async () => {
  answer = () => ({ json: { prompt_id: 'p', result: 'unconfirmed' } });
  await open('idle');
  await userEvent.type(box(), 'one');
  await userEvent.click(screen.getByRole('button', { name: 'Send' }));
  await screen.findByText(/not confirmed/);
  expect(box().value).toBe('one');
});

it('keeps what was refused, with the reason', async () => {
  answer = () => ({ status: 409, json: { error: 'It asks: Which colour?' } });
  await open('idle');
  await userEvent.type(box(), 'one');
  await userEvent.click(screen.getByRole('button', { name: 'Send' }));
  await screen.findByText('It asks: Which colour?');
  expect(box().value).toBe('one');
});

it('sends a text whose answer was lost with the same key again', async () => {
  answer = () => new TypeError('gone');
  await open('idle');
  await userEvent.type(box(), 'one');
  for (const count of [2, 4]) {
    await userEvent.click(screen.getByRole('button', { name: 'Send' }));
    await vi.waitFor(() => {
      expect(posts()).toHaveLength(count);
      expect(prompts.outcome('a')?.result).toBe('refused');
    });
  }
  expect(new Set(posts().map(({ headers }) => headers.get('Idempotency-Key'))).size).toBe(1);
});

it('queues while the tool works, shows the queue, and cancels what is in it', async () => {
  listed = [{ prompt_id: 'p1', text: 'Then the docs', result: 'queued', at: '' }];
  answer = ({ method }) => {
    if (method === 'DELETE') listed = [];
    return method === 'DELETE' ? { status: 204 } : { json: { prompt_id: 'p1', result: 'queued' } };
  };
  await open('working');
  await userEvent.type(box(), 'Then the docs');
  await userEvent.click(screen.getByRole('button', { name: 'Queue' }));
  await screen.findByText(/In the queue/);
  await userEvent.click(screen.getByRole('button', { name: '1 prompt queued' }));
  await userEvent.click(screen.getByRole('button', { name: 'Take it out of the queue' }));
  await vi.waitFor(() => expect(screen.queryByText('1 prompt queued')).toBeNull());
  expect(calls.filter(({ method }) => method === 'DELETE').map(({ path }) => path)).toEqual(['/api/sessions/a/prompts/p1']);
  expect(box().value).toBe('Then the docs');
});

it('interrupts a tool that works, and no other', async () => {
  answer = () => ({ status: 204 });
  await open('working');
  await userEvent.click(screen.getByRole('button', { name: 'Interrupt (Esc)' }));
  expect(bodies()).toEqual([['interrupt', null]]);
  cleanup();
  await open('idle');
  expect(screen.queryByRole('button', { name: 'Interrupt (Esc)' })).toBeNull();
});

it('shows what the tool asks with its options, and takes an answer in words', async () => {
  answer = () => ({ status: 204 });
  await open('waiting', { reason: 'question', text: 'Which colour?', options: ['Red', 'Green'] });
  expect(await screen.findByRole('button', { name: 'Red' })).toBeTruthy();
  await userEvent.type(box(), 'Mauve');
  await userEvent.click(screen.getByRole('button', { name: 'Answer' }));
  await vi.waitFor(() => expect(box().value).toBe(''));
  expect(bodies()).toEqual([['answer', { text: 'Mauve', question: 'Which colour?' }]]);
});

it('keeps the draft of each session', async () => {
  await open('idle');
  await userEvent.type(box(), 'half a thought');
  cleanup();
  await open('idle');
  expect(box().value).toBe('half a thought');
});
