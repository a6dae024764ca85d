// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Session } from '../../lib/types';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { fakeServer, someSession } from '../../test/fakes';
import SessionAbout from './SessionAbout.svelte';

let listed: Session[];

beforeEach(async () => {
  const note = 'it was switched off in the config';
  listed = [
    someSession({ protection: 'off', protection_note: note, warnings: ['The limit is too large.'] }),
    someSession({ id: 'b', protection: 'locked' }),
  ];
  fakeServer(() => ({ json: listed }));
  await sessions.refresh();
});

afterEach(() => {
  ui.about = '';
  cleanup();
  vi.unstubAllGlobals();
});

it.each([
  ['a', /The agent can change git hooks.*It was switched off in the config/],
  ['a', /The limit is too large/],
  ['b', /cannot change what is sealed/],
])('says of session %s in words what its badges say: %s', (id, words) => {
  ui.about = id;
  render(SessionAbout);
  expect(screen.getByRole('dialog', { name: 'About my-app' }).textContent.replace(/\s+/g, ' ')).toMatch(words);
});

it('closes when the session goes', async () => {
  ui.about = 'a';
  render(SessionAbout);
  listed = [];
  await sessions.refresh();
  flushSync();
  expect(ui.about).toBe('');
});
