import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { type Call, fakeServer, type Reply, someAgent, someAppeared, someSession } from '../test/fakes';
import { remove, resume, stop } from './actions';
import { ui } from './ui.svelte';

const QUIET = someSession();
const MARKED = someSession({ appeared: 5 });
const CHANGED = { status: 409, json: { error: '.git/config was replaced; look at it before you run git there, or start with "accept_changes": true' } };

let calls: Call[];
let answer: (call: Call) => Reply;
let questions: string[];
let agrees: boolean;

beforeEach(() => {
  answer = () => ({ json: [] });
  questions = [];
  agrees = true;
  ui.toasts = [];
  calls = fakeServer((call) => {
    const appeared = [0, 1, 2, 3, 4].map((at) => someAppeared({ path: `lib${at}/.git` }));
    return call.path.endsWith('/protection') ? { json: { appeared } } : answer(call);
  });
  vi.spyOn(ui, 'confirm').mockImplementation((title, text) => {
    questions.push(`${title} ${text}`);
    return Promise.resolve(agrees);
  });
});

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

const sent = (): unknown[] =>
  calls.filter(({ method }) => method !== 'GET').map(({ method, path, body }) => [method, path, body].filter(Boolean).join(' '));

it('stops a session without a question', async () => {
  await stop(QUIET);
  expect([questions, sent()]).toEqual([[], ['DELETE /api/sessions/a']]);
});

it.each(['working', 'stuck'] as const)('asks before it stops a tool that is %s', async (state) => {
  agrees = false;
  await stop(someSession({ agent: someAgent(state) }));
  expect(questions).toEqual(['Stop my-app? Claude Code is working: its turn ends unfinished. The conversation is kept.']);
  expect(sent()).toEqual([]);
});

it('asks before a stop where something appeared, and names it', async () => {
  agrees = false;
  await stop(MARKED);
  expect(questions[0]).toMatch(/5 things appeared .* your machine: lib0\/\.git runs on your machine .*; and 1 more\. Look at it/);
  expect(sent()).toEqual([]);
  agrees = true;
  await stop(MARKED);
  expect(sent()).toEqual(['DELETE /api/sessions/a']);
});

it('names what appeared in the question before a delete', async () => {
  agrees = false;
  await remove(MARKED);
  await remove(QUIET);
  expect(questions.map((text) => text.includes('5 things appeared'))).toEqual([true, false]);
});

it('resumes without a question what is as it was', async () => {
  await resume(QUIET);
  expect([questions, sent()]).toEqual([[], ['POST /api/sessions/a/resume']]);
});

it('asks where what was sealed is something else, and seals that if the person agrees', async () => {
  answer = ({ method, body }) => (method === 'POST' && !body ? CHANGED : { json: [] });
  await resume(QUIET);
  expect(questions[0]).toMatch(/^Resume my-app all the same\? \.git\/config was replaced\. If that was you/);
  expect(sent()).toEqual(['POST /api/sessions/a/resume', 'POST /api/sessions/a/resume {"accept_changes":true}']);
  expect(ui.toasts).toEqual([]);
});

it('says of any other refusal what it says', async () => {
  answer = ({ method }) => (method === 'POST' ? { status: 409, json: { error: 'it is starting' } } : { json: [] });
  await resume(QUIET);
  expect([questions, ui.toasts.map(({ text }) => text)]).toEqual([[], ['my-app did not resume. It is starting']]);
});
