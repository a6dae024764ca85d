// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, expect, it, vi } from 'vitest';

import { fakeServer } from '../../test/fakes';
import ImageSides from './ImageSides.svelte';

afterEach(() => {
  cleanup();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it('gives back the bytes of a picture that was never shown', async () => {
  fakeServer(() => ({ text: 'bytes' }));
  const made = vi.spyOn(URL, 'createObjectURL').mockReturnValue('blob:here/1');
  const back = vi.spyOn(URL, 'revokeObjectURL').mockReturnValue(undefined);
  const file = { path: 'a.png', images: ['', 'image/png'] };
  render(ImageSides, { id: 'a', file: file as never, from: 'start', to: 'now' });
  await screen.findByRole('img', { name: 'After' });
  expect(made).toHaveBeenCalledTimes(1);
  expect(back).not.toHaveBeenCalled();
  cleanup();
  expect(back.mock.calls).toEqual([['blob:here/1']]);
});
