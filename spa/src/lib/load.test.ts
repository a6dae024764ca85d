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

it('fetches a part again that was dropped on its way, and no third time', async () => {
  const fetchPart = vi.fn(() => Promise.reject(new TypeError('Failed to fetch')));
  const loading = load(fetchPart);
  loading.catch(() => undefined);
  await vi.advanceTimersByTimeAsync(AGAIN_MS);
  await expect(loading).rejects.toThrow('Failed to fetch');
  expect(fetchPart).toHaveBeenCalledTimes(2);
});
