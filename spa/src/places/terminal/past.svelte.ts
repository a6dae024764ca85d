/** A still picture of the lines that left a terminal's screen, which tmux keeps. The page alone scrolls and searches it. */
import { api, sentence } from '../../lib/api';
import { load } from '../../lib/load';
import { ui } from '../../state/ui.svelte';
import type { Look, TerminalHost, TerminalParts } from './terminal';
import type { TerminalKind } from './terminal-link.svelte';

export class Past {
  /** Null until the picture is there. */
  parts = $state.raw<TerminalParts | null>(null);
  /** How far it is to be scrolled once it is there. */
  #lines = 0;
  #over = false;
  #opened: TerminalParts | null = null;

  /** `onend` is called when it is scrolled to its end, and when it cannot be had. */
  constructor(
    readonly session: string,
    readonly kind: TerminalKind,
    readonly onend: () => void,
  ) {}

  scroll(lines: number): void {
    if (this.parts) this.parts.terminal.scrollLines(lines);
    else if ((this.#lines += lines) > 0) this.onend();
  }

  /** Shows it in the element, which must be as large as the terminal's own. */
  async open(element: HTMLElement, look: () => Look, host: TerminalHost): Promise<void> {
    try {
      const { openTerminal, SCROLLBACK_LINES } = await load(() => import('./terminal'));
      if (this.#isOver()) return;
      const text = await api.scrollback(this.session, SCROLLBACK_LINES, this.kind === 'shell');
      if (this.#isOver()) return;
      const onOverscroll = (lines: number): void => {
        if (lines > 0) this.onend();
      };
      const parts = openTerminal(element, look(), { ...host, onOverscroll });
      this.#opened = parts;
      const hideCursor = '\x1b[?25l';
      parts.screen.write(hideCursor + text.replace(/\n$/, '').replaceAll('\n', '\r\n'), () => {
        if (this.#over) return;
        parts.terminal.scrollLines(this.#lines);
        this.parts = parts;
      });
    } catch (error) {
      if (this.#over) return;
      ui.toast(`What was above cannot be read: ${sentence(error)}`, 'error');
      this.onend();
    }
  }

  /** By a call: while `open` waits, `dispose` changes it. */
  #isOver(): boolean {
    return this.#over;
  }

  dispose(): void {
    this.#over = true;
    this.#opened?.terminal.dispose();
  }
}
