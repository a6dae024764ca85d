// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Agent, Prompt, Session } from '../../lib/types';
import { prompts } from '../../state/prompts.svelte';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { type Call, fakeServer, type Reply, someAgent, someSession } from '../../test/fakes';
import Composer from './Composer.svelte';

let calls: Call[];
let listed: Prompt[];
let session: Session;
let answer: (call: Call) => Reply | Promise<Reply>;

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

const ASKED: Partial<Agent> = { reason: 'question', text: 'Which colour?', options: ['Red', 'Green'] };

let rendered: ReturnType<typeof render<typeof Composer>>;

async function open(state: Agent['state'], fields: Partial<Agent> = {}): Promise<void> {
  session = someSession({ agent: someAgent(state, fields) });
  await sessions.refresh();
  rendered = render(Composer, { session, visible: true });
}

/** The tool goes on to another state. */
async function become(state: Agent['state'], fields: Partial<Agent> = {}): Promise<void> {
  session = someSession({ agent: someAgent(state, fields) });
  await rendered.rerender({ session, visible: true });
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
  await screen.findByText('Sent.');
  expect([bodies(), box().value]).toEqual([[['prompt', { text: 'one\ntwo' }]], '']);
  expect(posts()[0]?.headers.get('Idempotency-Key')).toMatch(/^[\w-]{32,}$/);
});

it('keeps the text that the tool did not confirm, and says so', async () => {
  answer = () => ({ json: { prompt_id: 'p', result: 'unconfirmed' } });
  await open('idle');
  await userEvent.type(box(), 'one');
  await userEvent.click(screen.getByRole('button', { name: 'Send' }));
  await screen.findByText(/^Unconfirmed: .*Look at the terminal/);
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
  listed = [{ prompt_id: 'p1', text: 'Then the docs', result: 'queued', at: '', command: false }];
  answer = ({ method }) => {
    if (method === 'DELETE') listed = [];
    return method === 'DELETE' ? { status: 204 } : { json: { prompt_id: 'p1', result: 'queued' } };
  };
  await open('working');
  await userEvent.type(box(), 'Then the docs');
  await userEvent.click(screen.getByRole('button', { name: 'Queue' }));
  await screen.findByText(/^Queued until/);
  await userEvent.click(screen.getByRole('button', { name: '1 prompt queued' }));
  await userEvent.click(screen.getByRole('button', { name: 'Remove from queue' }));
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

it('says so if the tool does not show that it has stopped', async () => {
  answer = () => ({ json: { result: 'unconfirmed' } });
  await open('working');
  await userEvent.click(screen.getByRole('button', { name: 'Interrupt (Esc)' }));
  await vi.waitFor(() => expect(ui.toasts.map(({ text }) => text).join()).toMatch(/nothing shows yet that it has stopped/));
});

it('shows what the tool asks with its options, and takes an answer in words', async () => {
  answer = () => ({ json: { result: 'answered' } });
  await open('waiting', { ...ASKED, question: 101 });
  expect(await screen.findByRole('button', { name: 'Red' })).toBeTruthy();
  await userEvent.type(box(), 'Mauve');
  await userEvent.click(screen.getByRole('button', { name: 'Answer' }));
  await screen.findByText('Sent: Claude Code has the answer.');
  expect(box().value).toBe('');
  expect(bodies()).toEqual([['answer', { text: 'Mauve', question: 'Which colour?', number: 101 }]]);
});

it('keeps an answer that the tool did not confirm, says so, and lets one send it again', async () => {
  answer = () => ({ json: { result: 'unconfirmed' } });
  await open('waiting', { ...ASKED, question: 102 });
  await userEvent.type(box(), 'Mauve');
  for (const count of [1, 2]) {
    await userEvent.click(screen.getByRole('button', { name: 'Answer' }));
    await screen.findByText(/^Answer unconfirmed: .* Look at the terminal/);
    expect([posts().length, box().value, box().readOnly]).toEqual([count, 'Mauve', false]);
  }
});

it('keeps what was written while an answer was on its way', async () => {
  let done = (): void => undefined;
  const held = new Promise<void>((resolve) => (done = resolve));
  answer = async () => {
    await held;
    return { json: { result: 'answered' } };
  };
  await open('waiting', { ...ASKED, question: 103 });
  await userEvent.type(box(), 'Mauve');
  await userEvent.click(screen.getByRole('button', { name: 'Answer' }));
  prompts.write('a', 'Mauve, and then');
  done();
  await screen.findByText('Sent: Claude Code has the answer.');
  expect(box().value).toBe('Mauve, and then');
});

it('gives a prompt as the answer to a question that has opened meanwhile only when told so', async () => {
  answer = () => ({ json: { result: 'answered' } });
  await open('working');
  await userEvent.type(box(), 'Then the docs');
  await become('waiting', { ...ASKED, question: 104 });
  await userEvent.keyboard('{Control>}{Enter}{/Control}');
  await screen.findByText(/^It has asked something since you began to write/);
  expect([posts(), box().value]).toEqual([[], 'Then the docs']);
  await userEvent.keyboard('{Control>}{Enter}{/Control}');
  await screen.findByText('Sent: Claude Code has the answer.');
  expect(bodies()).toEqual([['answer', { text: 'Then the docs', question: 'Which colour?', number: 104 }]]);
});

it('gives an answer as a prompt, or to the next question, only when told so', async () => {
  await open('waiting', { ...ASKED, question: 105 });
  await userEvent.type(box(), 'Mauve');
  await become('waiting', { ...ASKED, text: 'Which size?', question: 106 });
  await userEvent.keyboard('{Control>}{Enter}{/Control}');
  await screen.findByText(/^It has asked something since/);
  await become('working');
  await userEvent.keyboard('{Control>}{Enter}{/Control}');
  await screen.findByText(/^What it asked is no longer open/);
  expect(posts()).toEqual([]);
  await userEvent.keyboard('{Control>}{Enter}{/Control}');
  await screen.findByText('Sent.');
  expect(bodies()).toEqual([['prompt', { text: 'Mauve' }]]);
});

it('keeps the draft of each session', async () => {
  await open('idle');
  await userEvent.type(box(), 'half a thought');
  cleanup();
  await open('idle');
  expect(box().value).toBe('half a thought');
});
