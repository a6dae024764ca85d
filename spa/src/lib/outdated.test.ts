// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { fakeServer, type Reply } from '../test/fakes';
import { isOutdated } from './outdated';

const page = (name: string): string => `<head><script src="/assets/${name}.js"></script></head><body></body>`;

beforeEach(() => {
  document.head.innerHTML = '<script src="/assets/start-old.js" type="text/x-test"></script><script src="/assets/index-old.js" type="text/x-test"></script>';
});

afterEach(() => {
  document.head.innerHTML = '';
  vi.unstubAllGlobals();
});

it.each<[string, Reply, boolean]>([
  ['the same page', { text: page('start-old') }, false],
  ['another page', { text: page('start-new') }, true],
  ['a page to sign in', { status: 401, text: '<form></form>' }, false],
  ['a page that is not built', { text: 'nothing' }, false],
  ['nothing', new Error('offline'), false],
])('compares what the server has now: %s', async (_, reply, outdated) => {
  fakeServer(() => reply);
  expect(await isOutdated()).toBe(outdated);
});
