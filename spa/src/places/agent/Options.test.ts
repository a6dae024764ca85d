// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Agent, Session } from '../../lib/types';
import { answers, STILL_OPEN } from '../../state/answers.svelte';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { type Call, fakeServer, type Reply, someAgent, someSession } from '../../test/fakes';
import Options from './Options.svelte';

let asked = 0;
let session: Session;
let calls: Call[];
let answer: Reply;

/** A session whose tool waits, each time with another question. */
async function wait(reason: Agent['reason'], options: string[]): Promise<void> {
  asked += 1;
  session = someSession({ agent: someAgent('waiting', { reason, text: `Which one? ${asked}`, options }) });
  await sessions.refresh();
}

beforeEach(() => {
  answer = { json: { result: 'answered' } };
  calls = fakeServer(({ method }) => (method === 'GET' ? { json: [session] } : answer));
});

afterEach(() => {
  cleanup();
  ui.toasts = [];
  ui.plan = '';
  vi.unstubAllGlobals();
});

const posted = () => calls.filter(({ method }) => method === 'POST').map(({ path, body }) => [path, JSON.parse(String(body)) as unknown]);
const button = (name: string) => screen.getByRole<HTMLButtonElement>('button', { name });

it('gives the number of the option and the question that it answers, once', async () => {
  await wait('question', ['Red', 'Green']);
  render(Options, { session });
  await userEvent.click(button('Green'));
  await userEvent.click(button('Red'));
  const { text, question } = session.agent;
  expect(posted()).toEqual([['/api/sessions/a/answer', { option: 2, question: text, number: question }]]);
  expect(button('Red').disabled).toBe(true);
});

it('says when nothing shows that the tool took the answer, and lets one answer again', async () => {
  await wait('question', ['Red', 'Green']);
  answer = { json: { result: 'unconfirmed' } };
  render(Options, { session });
  await userEvent.click(button('Green'));
  await vi.waitFor(() => expect(ui.toasts[0]?.text).toMatch(/^my-app: Answer unconfirmed: .* Look at the terminal\.$/));
  expect(button('Red').disabled).toBe(false);
});

it('lets one answer again if the question is still open long after the tool took an answer', async () => {
  vi.useFakeTimers({ shouldAdvanceTime: true });
  await wait('question', ['Red', 'Green']);
  render(Options, { session });
  await userEvent.click(button('Green'));
  await vi.waitFor(() => expect(answers.outcome(session)).toBe('answered'));
  expect(button('Red').disabled).toBe(true);
  vi.advanceTimersByTime(STILL_OPEN);
  flushSync();
  expect(button('Red').disabled).toBe(false);
  vi.useRealTimers();
});

it('takes another question in the same words for another one', async () => {
  await wait('question', ['Red', 'Green']);
  render(Options, { session });
  await userEvent.click(button('Green'));
  await vi.waitFor(() => expect(answers.outcome(session)).toBe('answered'));
  cleanup();
  const { agent } = session;
  session = someSession({ agent: { ...agent, question: agent.question + 1 } });
  await sessions.refresh();
  render(Options, { session });
  expect(button('Red').disabled).toBe(false);
});

it('says when the question is gone, and lets one answer the next', async () => {
  await wait('question', ['Red', 'Green']);
  answer = { status: 409, json: { error: 'No question is open now: it was answered, or the tool went on.' } };
  render(Options, { session });
  await userEvent.click(button('Red'));
  await vi.waitFor(() => expect(ui.toasts[0]?.text).toBe('my-app was not answered. No question is open now: it was answered, or the tool went on.'));
  expect(button('Red').disabled).toBe(false);
});

it('takes no answer to a question that is not open any more', async () => {
  await wait('question', ['Red', 'Green']);
  const before = session;
  render(Options, { session: before });
  sessions.agentIs('a', someAgent('working'));
  flushSync();
  expect(button('Red').disabled).toBe(true);
});

it('opens a plan first, and has its options there', async () => {
  await wait('plan', ['Yes', 'No']);
  render(Options, { session });
  expect(screen.queryByRole('button', { name: 'Yes' })).toBeNull();
  await userEvent.click(button('Read the plan'));
  expect(ui.plan).toBe('a');
  cleanup();
  render(Options, { session, opensPlan: false });
  expect(button('Yes').disabled).toBe(false);
});

it.each([
  ['permission', /Allow or refuse it in the terminal/],
  ['dialog', /with the arrows and Enter/],
  ['login', /Log in at the terminal/],
] as const)('says what to do about a %s without options', async (reason, text) => {
  await wait(reason, []);
  render(Options, { session });
  expect(screen.getByText(text)).toBeTruthy();
});
