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
  readonly #end = new AbortController();
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
      this.#end.signal.throwIfAborted();
      const text = await api.scrollback(this.session, SCROLLBACK_LINES, this.kind === 'shell');
      this.#end.signal.throwIfAborted();
      const onOverscroll = (lines: number): void => {
        if (lines > 0) this.onend();
      };
      const parts = openTerminal(element, look(), { ...host, onOverscroll });
      this.#opened = parts;
      const hideCursor = '\x1b[?25l';
      parts.screen.write(hideCursor + text.replace(/\n$/, '').replaceAll('\n', '\r\n'), () => {
        if (this.#end.signal.aborted) return;
        parts.terminal.scrollLines(this.#lines);
        this.parts = parts;
      });
    } catch (error) {
      if (this.#end.signal.aborted) return;
      ui.toast(`What was above cannot be read: ${sentence(error)}`, 'error');
      this.onend();
    }
  }

  dispose(): void {
    this.#end.abort();
    this.#opened?.terminal.dispose();
  }
}
