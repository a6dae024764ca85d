/**
 * An address that a program shows, spelled out: a name in other letters as xn--…, and what would turn the text around as
 * %E2%80%AE. Empty for what is no web address, which is never opened.
 */
export function spelledOut(address: string): string {
  try {
    const url = new URL(address);
    return url.protocol === 'http:' || url.protocol === 'https:' ? url.href : '';
  } catch {
    return '';
  }
}
