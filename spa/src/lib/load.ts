/** Fetches a part of the page, once more if that fails. */

/**
 * Chromium drops what it has not sent yet when a network interface appears, as it does on this machine with each container
 * that starts (ERR_NETWORK_CHANGED). So what is lost comes through a moment later.
 */
export const AGAIN_MS = 300;

export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** The address of the part in the words of Chromium and Firefox for an import that failed. */
const FAILED_IMPORT = /module: (\S+\/assets\/[\w.-]+\.js)$/;

/**
 * Older browsers keep a failed import for good (https://github.com/whatwg/html/pull/10327): there the part is fetched once
 * more by another address, if the failure names it.
 */
export async function load<Part>(
  fetchPart: () => Promise<Part>,
  fetchFrom = (address: string) => import(/* @vite-ignore */ address) as Promise<Part>,
): Promise<Part> {
  try {
    return await fetchPart();
  } catch {
    await pause(AGAIN_MS);
  }
  try {
    return await fetchPart();
  } catch (error) {
    const address = error instanceof Error ? FAILED_IMPORT.exec(error.message)?.[1] : undefined;
    if (!address || new URL(address).origin !== location.origin) throw error;
    return fetchFrom(`${address}?again`);
  }
}
