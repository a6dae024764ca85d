/** The wire between one terminal on the page and one on the server. */
import { ReconnectingSocket, socketUrl } from '../lib/socket.svelte';
import type { TerminalExit, TerminalResize } from '../lib/types';

export type TerminalKind = 'terminal' | 'shell';

/** What the link needs of xterm.js; tests give their own. */
export interface Screen {
  readonly cols: number;
  readonly rows: number;
  write(data: Uint8Array | string, done?: () => void): void;
  reset(): void;
}

/** Ended, unknown, not running, not allowed: trying again would give the same answer. */
const FINAL_CODES: ReadonlySet<number> = new Set([1000, 1008, 4404, 4409]);
/** Output that xterm.js has not drawn yet. Beyond it the link starts afresh, and the server sends the current screen. */
const MOST_UNDRAWN_BYTES = 16 * 1024 * 1024;

const encoder = new TextEncoder();

export class TerminalLink {
  exit = $state.raw<TerminalExit | null>(null);
  readonly socket: ReconnectingSocket;
  readonly #screen: Screen;
  readonly #kind: TerminalKind;
  #undrawn = 0;
  #connections = 0;

  constructor(id: string, kind: TerminalKind, screen: Screen) {
    this.#screen = screen;
    this.#kind = kind;
    this.socket = new ReconnectingSocket({
      url: () => socketUrl(`/ws/${kind}/${encodeURIComponent(id)}?cols=${screen.cols}&rows=${screen.rows}`),
      protocol: 'clincus.terminal.v1',
      isFinal: (code) => FINAL_CODES.has(code),
      onOpen: () => this.#opened(),
      onMessage: (data) => this.#message(data),
    });
  }

  /** Types text into the program. What cannot be sent now is dropped, never typed later. */
  type(text: string): void {
    this.socket.send(encoder.encode(text));
  }

  /** Types bytes that are not text, as mouse reports of old are. */
  typeBinary(data: string): void {
    this.socket.send(Uint8Array.from(data, (character) => character.charCodeAt(0) & 0xff));
  }

  resize(cols: number, rows: number): void {
    const message: TerminalResize = { type: 'resize', cols, rows };
    this.socket.send(JSON.stringify(message));
  }

  reconnect(): void {
    this.exit = null;
    this.socket.reconnect();
  }

  dispose(): void {
    this.socket.dispose();
  }

  #opened(): void {
    this.exit = null;
    this.#undrawn = 0;
    this.#connections += 1;
    if (this.#connections === 1) return;
    // The tool's screen is drawn anew by tmux; a shell is a new one, and what the old one said is worth keeping.
    if (this.#kind === 'terminal') this.#screen.reset();
    else this.#screen.write('\r\n\x1b[0;2m[connected again: this is a new shell]\x1b[0m\r\n');
  }

  #message(data: string | ArrayBuffer): void {
    if (typeof data === 'string') {
      const message = JSON.parse(data) as TerminalExit;
      if (message.type === 'exit') this.exit = message;
      return;
    }
    this.#undrawn += data.byteLength;
    if (this.#undrawn > MOST_UNDRAWN_BYTES) {
      this.#screen.reset();
      this.socket.reconnect();
      return;
    }
    const connection = this.#connections;
    this.#screen.write(new Uint8Array(data), () => {
      if (connection === this.#connections) this.#undrawn -= data.byteLength;
    });
  }
}
