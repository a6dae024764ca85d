/** Git's modes of a file before and after a change. */

/** The mode of a file that is not there. */
export const NONE = '000000';

const NAMES: Record<string, string> = { '100644': 'a file', '100755': 'a program', '120000': 'a link', '160000': 'a repository' };

/** A sentence if a file has become something of another kind, else nothing. */
export function changeOfKind([before = '', after = '']: readonly string[]): string {
  const was = NAMES[before];
  const is = NAMES[after];
  return was && is && was !== is ? `It was ${was} and is ${is} now.` : '';
}
