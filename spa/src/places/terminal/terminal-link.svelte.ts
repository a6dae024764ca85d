/** The wire between one terminal on the page and one on the server. */
import { ReconnectingSocket, socketUrl } from '../../lib/socket.svelte';
import type { TerminalExit, TerminalRequest } from '../../lib/types';

export type TerminalKind = 'terminal' | 'shell';

/** The part of xterm.js that the link uses; tests give their own. */
export interface Screen {
  readonly cols: number;
  readonly rows: number;
  write(data: Uint8Array | string, done?: () => void): void;
  reset(): void;
}

/** Ended, unknown, not running, not allowed: trying again would give the same answer. */
const FINAL_CODES: ReadonlySet<number> = new Set([1000, 1008, 4404, 4409]);
/**
 * Output that xterm.js has not drawn yet: above the first mark the server is asked to hold the rest back, below the second
 * one to go on. In between lies what is on its way (as ttyd does it; the marks are those of xterm.js's flow control guide).
 */
const PAUSE_ABOVE_BYTES = 512 * 1024;
const RESUME_BELOW_BYTES = 64 * 1024;
/** The server takes no message above 1 MiB; a long paste goes in pieces. */
const PIECE_BYTES = 64 * 1024;
/** Reports that xterm.js sends by itself: focus, its kind, the places of cursor and mouse. */
// eslint-disable-next-line no-control-regex
const REPORT = /^\x1b(?:\[(?:[IO]$|[<>?M]|[\d;]*[nRt]$)|[P\]].)/;

const encoder = new TextEncoder();

export class TerminalLink {
  exit = $state.raw<TerminalExit | null>(null);
  /** Something was typed that went nowhere, or may not have arrived. Told, and forgotten, when it is connected again. */
  keysLost = $state(false);
  readonly socket: ReconnectingSocket;
  readonly #screen: Screen;
  readonly #onKeysLost: () => void;
  /** The size that the connection was opened with. */
  #openedWith = '';
  #undrawn = 0;
  /** The server was asked to hold the output back. */
  #paused = false;
  /** Nobody sees the terminal: its output can wait. */
  #resting = false;
  #connections = 0;

  constructor(id: string, kind: TerminalKind, screen: Screen, onKeysLost: () => void) {
    this.#screen = screen;
    this.#onKeysLost = onKeysLost;
    this.socket = new ReconnectingSocket({
      url: () => {
        this.#openedWith = this.#size();
        return socketUrl(`/ws/${kind}/${encodeURIComponent(id)}?${this.#openedWith}&own_mouse=1`);
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
    this.#ask({ type: 'resize', cols, rows });
  }

  reconnect(): void {
    this.exit = null;
    this.socket.reconnect();
  }

  /** Has the server hold the output back while nobody sees the terminal. tmux draws its screen anew afterwards. */
  rest(resting: boolean): void {
    if (resting === this.#resting) return;
    this.#resting = resting;
    this.#pace();
  }

  dispose(): void {
    this.socket.dispose();
  }

  #ask(request: TerminalRequest): void {
    this.socket.send(JSON.stringify(request));
  }

  #size(): string {
    return `cols=${this.#screen.cols}&rows=${this.#screen.rows}`;
  }

  #opened(): void {
    this.exit = null;
    this.#undrawn = 0;
    this.#paused = false;
    this.#connections += 1;
    this.#pace();
    if (this.#openedWith !== this.#size()) this.resize(this.#screen.cols, this.#screen.rows);
    if (this.keysLost) this.#onKeysLost();
    this.keysLost = false;
    // tmux draws the whole screen anew.
    if (this.#connections > 1) this.#screen.reset();
  }

  #message(data: string | ArrayBuffer): void {
    if (typeof data === 'string') {
      const message = JSON.parse(data) as TerminalExit;
      if (message.type === 'exit') this.exit = message;
      return;
    }
    this.#undrawn += data.byteLength;
    this.#pace();
    const connection = this.#connections;
    this.#screen.write(new Uint8Array(data), () => {
      if (connection !== this.#connections) return;
      this.#undrawn -= data.byteLength;
      this.#pace();
    });
  }

  /** Asks the server to hold the output back, or to go on, if that is not so already. */
  #pace(): void {
    const most = this.#paused ? RESUME_BELOW_BYTES : PAUSE_ABOVE_BYTES;
    const paused = this.#resting || this.#undrawn >= most;
    if (paused === this.#paused) return;
    this.#paused = paused;
    this.#ask({ type: paused ? 'pause' : 'resume' });
  }
}
