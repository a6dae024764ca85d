import { expect, it } from 'vitest';

import { someAgent, someSession } from '../test/fakes';
import { announced, stateOf } from './announce';
import type { Agent } from './types';

const session = (state: Agent['state'], fields: Partial<Agent> = {}) => someSession({ agent: someAgent(state, fields) });

it.each<[string, ReturnType<typeof session>, string]>([
  ['idle', session('working'), 'my-app is working.'],
  ['working', session('waiting', { reason: 'question', text: 'Red or green?' }), 'my-app is waiting for you: question: Red or green?'],
  ['waiting 1', session('waiting', { question: 2, text: 'Really?' }), 'my-app is waiting for you: Really?'],
  ['working', session('done', { text: 'All 41 tests pass' }), 'my-app is done.'],
  ['working', session('idle'), 'my-app is done.'],
  ['working', session('idle', { reason: 'interrupted' }), 'my-app was interrupted.'],
  ['working', session('failed', { reason: 'rate_limit', text: 'Try at 5' }), 'my-app has failed: rate limit: Try at 5'],
  ['working', session('ended', { reason: 'crashed' }), 'my-app has crashed.'],
  ['running', someSession({ status: 'stopped', slot: 2 }), 'my-app, slot 2 has stopped.'],
])('after %s it says what a session does now', (before, now, text) => {
  expect(announced(before, now)).toBe(text);
});

it.each([
  ['the same state', 'working', session('working', { text: 'Running tests' })],
  ['a done session that was looked at', 'done', session('idle')],
  ['a tool that is ready for its first prompt', 'starting', session('idle')],
  ['a tool whose state nobody knows', 'starting', session('unknown')],
])('says nothing of %s', (_, before, now) => {
  expect(announced(before, now)).toBe('');
});

it('tells one question from the next', () => {
  expect(stateOf(session('waiting', { question: 1 }))).not.toBe(stateOf(session('waiting', { question: 2 })));
});
