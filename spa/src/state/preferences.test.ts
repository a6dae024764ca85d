// @vitest-environment happy-dom
import { afterEach, expect, it, vi } from 'vitest';

afterEach(() => {
  vi.unstubAllGlobals();
  vi.resetModules();
});

it.each([
  ['Linux x86_64', true],
  ['MacIntel', false],
  ['Win32', false],
])('on %s a selection is a copy, as in the other programs there: %s', async (platform, copies) => {
  vi.stubGlobal('navigator', { platform });
  vi.resetModules();
  const { preferences } = await import('./preferences.svelte');
  expect(preferences.copyOnSelect).toBe(copies);
});
