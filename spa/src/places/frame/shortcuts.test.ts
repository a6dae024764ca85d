// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, it } from 'vitest';

import { router } from '../../lib/router.svelte';
import { preferences } from '../../state/preferences.svelte';
import { ui } from '../../state/ui.svelte';
import { handleKey } from './shortcuts';

beforeEach(() => {
  router.go('/');
  ui.palette = false;
  ui.newSession = null;
});

afterEach(() => {
  preferences.singleKeys = true;
  ui.newSession = null;
});

it.each([
  ['is a shortcut', true],
  ['is none where the person does not want that, as with speech input', false],
])('a letter alone %s', (_, wanted) => {
  preferences.singleKeys = wanted;
  handleKey(new KeyboardEvent('keydown', { key: 'n' }));
  expect(ui.newSession !== null).toBe(wanted);
});
