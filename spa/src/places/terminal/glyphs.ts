/** Gives a terminal the add-on that knows emoji, marks and the like, once its output holds one of them. */
import type { Terminal } from '@xterm/xterm';

import { load } from '../../lib/load';
import type { Screen } from './terminal-link.svelte';

/**
 * Characters whose width, or whose tie to the one before, xterm.js alone gets wrong: its own table is that of Unicode 6.
 * glyphs.test.ts compares the two for every character.
 */
export const COMPLEX =
  /[\p{M}\p{Cf}\p{Emoji_Presentation}\p{Script=Hangul}\p{Script=Thai}\p{Script=Lao}\u06de\u2ff0-\u2fff\u31e4-\u31ef\u3248-\u324f\u4dc0-\u4dff\uff9e\uff9f\u{10000}-\u{3ffff}]/u;

/** All that is written to the terminal goes this way. What comes while the add-on is on its way waits for it, in order. */
export function screenOf(terminal: Terminal): Screen {
  const decoder = new TextDecoder();
  let state: 'plain' | 'loading' | 'complete' = 'plain';
  let waiting: (() => void)[] = [];

  async function complete(): Promise<void> {
    state = 'loading';
    try {
      const { UnicodeGraphemesAddon } = await load(() => import('@xterm/addon-unicode-graphemes'));
      terminal.loadAddon(new UnicodeGraphemesAddon());
      state = 'complete';
    } catch {
      // Some widths are wrong until it is tried again, with the next of these characters.
      state = 'plain';
    }
    const due = waiting;
    waiting = [];
    for (const write of due) write();
  }

  return {
    get cols() {
      return terminal.cols;
    },
    get rows() {
      return terminal.rows;
    },
    write: (data, done) => {
      if (state === 'plain') {
        // A character may be spread over two pieces of the output.
        const text = typeof data === 'string' ? data : decoder.decode(data, { stream: true });
        if (COMPLEX.test(text)) void complete();
      }
      const write = (): void => terminal.write(data, done);
      if (state === 'loading') waiting.push(write);
      else write();
    },
    reset: () => {
      waiting = [];
      terminal.reset();
    },
  };
}
