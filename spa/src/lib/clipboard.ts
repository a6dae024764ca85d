/** Puts text on the clipboard, also where the browser hides its API: over plain HTTP from another machine. */

/**
 * Rejects where the browser does not allow it. Without the API it works in answer to a key or a click only: the page asks
 * for a copy of nothing much, and says itself what is copied.
 */
export async function writeClipboard(text: string): Promise<void> {
  // The DOM's types do not know that it can be missing (https://www.w3.org/TR/clipboard-apis/#navigator-interface).
  const { clipboard } = navigator as { clipboard?: Clipboard };
  if (clipboard) {
    await clipboard.writeText(text);
    return;
  }
  if (!copyByCommand(text)) throw new Error('The browser did not allow copying.');
}

function copyByCommand(text: string): boolean {
  let copied = false;
  const put = (event: ClipboardEvent): void => {
    event.stopImmediatePropagation();
    event.preventDefault();
    event.clipboardData?.setData('text/plain', text);
    copied = event.clipboardData !== null;
  };
  document.addEventListener('copy', put, { capture: true });
  try {
    // eslint-disable-next-line @typescript-eslint/no-deprecated -- the one way that is left without the API
    document.execCommand('copy');
  } finally {
    document.removeEventListener('copy', put, { capture: true });
  }
  return copied;
}
