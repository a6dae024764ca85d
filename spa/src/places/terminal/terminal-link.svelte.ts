/** The wire between one terminal on the page and one on the server. */
import { ReconnectingSocket, socketUrl } from '../../lib/socket.svelte';
import type { TerminalExit, TerminalResize } from '../../lib/types';

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
/** The server takes no message above 1 MiB; a long paste goes in pieces. */
const PIECE_BYTES = 64 * 1024;
/** What the terminal says by itself: that it has the focus, what it is, where cursor and mouse are. */
// eslint-disable-next-line no-control-regex
const REPORT = /^\x1b(?:\[(?:[IO]$|[<>?M]|[\d;]*[nRt]$)|[P\]].)/;

const encoder = new TextEncoder();

export class TerminalLink {
  exit = $state.raw<TerminalExit | null>(null);
  /** Something was typed that went nowhere, or may not have arrived. Told, and forgotten, when it is connected again. */
  keysLost = $state(false);
  readonly socket: ReconnectingSocket;
  readonly #screen: Screen;
  readonly #kind: TerminalKind;
  readonly #onKeysLost: () => void;
  /** The size that the connection was opened with. */
  #openedWith = '';
  #undrawn = 0;
  #connections = 0;

  constructor(id: string, kind: TerminalKind, screen: Screen, onKeysLost: () => void) {
    this.#screen = screen;
    this.#kind = kind;
    this.#onKeysLost = onKeysLost;
    this.socket = new ReconnectingSocket({
      url: () => {
        this.#openedWith = this.#size();
        return socketUrl(`/ws/${kind}/${encodeURIComponent(id)}?${this.#openedWith}${kind === 'terminal' ? '&own_mouse=1' : ''}`);
      },
      protocol: 'clincus.terminal.v1',
      whenSeen: true,
      isFinal: (code) => FINAL_CODES.has(code),
      onOpen: () => this.#opened(),
      onLost: (_code, unconfirmed) => {
        if (unconfirmed) this.keysLost = true;
      },
      onMessage: (data) => this.#message(data),
    });
  }

  /** Types text into the program. What cannot be sent now is dropped, never typed later. */
  type(text: string): void {
    const bytes = encoder.encode(text);
    if (REPORT.test(text)) {
      this.socket.send(bytes);
      return;
    }
    for (let at = 0; at < bytes.length; at += PIECE_BYTES)
      if (!this.socket.type(bytes.subarray(at, at + PIECE_BYTES))) this.keysLost = true;
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

  #size(): string {
    return `cols=${this.#screen.cols}&rows=${this.#screen.rows}`;
  }

  #opened(): void {
    this.exit = null;
    this.#undrawn = 0;
    this.#connections += 1;
    if (this.#openedWith !== this.#size()) this.resize(this.#screen.cols, this.#screen.rows);
    if (this.keysLost) this.#onKeysLost();
    this.keysLost = false;
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
