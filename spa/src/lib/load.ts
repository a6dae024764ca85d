/** Fetches a part of the page, once more if that fails. */

/**
 * Chromium drops what it has not sent yet when a network interface appears, as it does on this machine with each container
 * that starts (ERR_NETWORK_CHANGED). So what is lost comes through a moment later.
 */
export const AGAIN_MS = 300;

export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export async function load<Part>(fetchPart: () => Promise<Part>): Promise<Part> {
  try {
    return await fetchPart();
  } catch {
    await pause(AGAIN_MS);
    return fetchPart();
  }
}
