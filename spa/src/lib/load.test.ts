import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { AGAIN_MS, load } from './load';

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
});

it('gives a part that came at once', async () => {
  expect(await load(() => Promise.resolve('part'))).toBe('part');
});

it('fetches a part by another address from a browser that keeps a failed import for good', async () => {
  vi.stubGlobal('location', { origin: 'https://box.example' });
  const address = 'https://box.example/assets/Palette-abc_1.js';
  const failure = new TypeError(`Failed to fetch dynamically imported module: ${address}`);
  const fetchFrom = vi.fn((from: string) => Promise.resolve(from));
  const loading = load(() => Promise.reject<string>(failure), fetchFrom);
  await vi.advanceTimersByTimeAsync(AGAIN_MS);
  expect(await loading).toBe(`${address}?again`);
  vi.unstubAllGlobals();
});

it('fetches a part again that was dropped on its way, and no third time', async () => {
  const fetchPart = vi.fn(() => Promise.reject(new TypeError('Failed to fetch')));
  const loading = load(fetchPart);
  loading.catch(() => undefined);
  await vi.advanceTimersByTimeAsync(AGAIN_MS);
  await expect(loading).rejects.toThrow('Failed to fetch');
  expect(fetchPart).toHaveBeenCalledTimes(2);
});
