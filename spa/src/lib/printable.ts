/** A path as text for the page: what is no character, or would turn the text around it, stands as a sign. */
export function printable(path: string): string {
  // eslint-disable-next-line no-control-regex
  return path.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]/gu, '\ufffd');
}
