import { expect, it } from 'vitest';

import { someAgent, someSession } from '../test/fakes';
import { nextStep } from './agent';

const CHANGES = { files: 3, added: 4, removed: 1 };

it.each([
  ['a turn is over', { agent: someAgent('idle'), changes: CHANGES }, 'Review 3 files'],
  ['nobody has looked since', { agent: someAgent('done'), changes: { ...CHANGES, files: 1 } }, 'Review 1 file'],
  ['the agent works', { agent: someAgent('working'), changes: CHANGES }, ''],
  ['nothing has changed', { agent: someAgent('idle'), changes: { ...CHANGES, files: 0 } }, ''],
  ['the session has stopped', { status: 'stopped' as const, agent: someAgent('idle'), changes: CHANGES }, ''],
])('offers a review when %s, and else not', (_, fields, words) => {
  expect(nextStep(someSession(fields))).toBe(words);
});
