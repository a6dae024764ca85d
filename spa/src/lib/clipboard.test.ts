// @vitest-environment happy-dom
import { afterEach, expect, it, vi } from 'vitest';

import { writeClipboard } from './clipboard';

afterEach(() => vi.unstubAllGlobals());

/** A browser that hides the API, and copies what the page gives it if `allows`. */
function plainHttp(allows: boolean): { copied: string } {
  const result = { copied: '' };
  vi.stubGlobal('navigator', {});
  const execCommand = (): boolean => {
    const event = Object.assign(new Event('copy', { cancelable: true }), {
      clipboardData: { setData: (_type: string, text: string) => (result.copied = text) },
    });
    return allows && document.dispatchEvent(event);
  };
  Object.assign(document, { execCommand });
  return result;
}

it('uses the API where there is one', async () => {
  const writeText = vi.fn(() => Promise.resolve());
  vi.stubGlobal('navigator', { clipboard: { writeText } });
  await writeClipboard('text');
  expect(writeText).toHaveBeenCalledExactlyOnceWith('text');
});

it('copies without the API', async () => {
  const result = plainHttp(true);
  await writeClipboard('text');
  expect(result.copied).toBe('text');
});

it('says that it was not allowed', async () => {
  plainHttp(false);
  await expect(writeClipboard('text')).rejects.toThrow('did not allow');
});
