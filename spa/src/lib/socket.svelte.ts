/** A WebSocket that comes back by itself, and shows in which state it is. */
import type { BegunStream } from './begun';
import { Pulse } from './pulse';
import { doubt, onWake } from './wake';

/** `waiting` = lost, will try again at `retryAt`; `closed` = will not try again by itself. */
export type SocketState = 'connecting' | 'open' | 'waiting' | 'closed';

export interface SocketOptions {
  /** Asked anew for each attempt, so that a query (the terminal's size) is current. */
  url: () => string;
  protocol: string;
  /** A connection that was begun already; the first attempt is to take it. */
  begun?: BegunStream | null;
  /** The server is known to answer when it is asked if it is there: the first connection may be dead from its first moment. */
  answers?: boolean;
  onOpen?: () => void;
  onMessage: (data: string | ArrayBuffer) => void;
  /** After each loss, whether it is tried again or not; `unconfirmed` if what was typed last may not have arrived. */
  onLost?: (code: number, unconfirmed: boolean) => void;
  /** A page that nobody sees comes back only when somebody does: it must not take the size from one that is looked at. */
  whenSeen?: boolean;
  /** Whether a close with this code ends the matter. */
  isFinal: (code: number) => boolean;
}

const FIRST_DELAY_MS = 400;
const LONGEST_DELAY_MS = 15_000;
const CONNECT_TIMEOUT_MS = 10_000;
/** A connection that takes longer is begun anew when there is news of the network. */
const SLOW_CONNECT_MS = 2_000;
/** A connection must hold this long before the next loss counts as the first one again. */
const STEADY_MS = 5_000;

export class ReconnectingSocket {
  state = $state<SocketState>('connecting');
  /** Attempts that failed since the last steady connection. */
  attempt = $state(0);
  /** When the next attempt is due, in ms of Date.now(); only while `waiting`. */
  retryAt = $state(0);
  closeCode = $state(0);
  closeReason = $state('');

  readonly #options: SocketOptions;
  readonly #forgetWake: () => void;
  #socket: WebSocket | null = null;
  #pulse: Pulse | null = null;
  /** The server is known to answer, or has answered over a connection before this one. */
  #answers = false;
  #startedAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #disposed = false;

  constructor(options: SocketOptions) {
    this.#options = options;
    this.#answers = options.answers ?? false;
    this.#forgetWake = onWake(() => {
      const slow = this.state === 'connecting' && Date.now() - this.#startedAt > SLOW_CONNECT_MS;
      if (this.state === 'waiting' || slow) this.#again();
      else this.#pulse?.ask();
    });
    this.#connect(options.begun);
  }

  /** Sends if the connection is open; says whether it did. Nothing is kept for later: a late key is a wrong key. */
  send(data: string | Uint8Array<ArrayBuffer>): boolean {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(data);
    return true;
  }

  /** The same for what a person typed: that it has arrived is made sure of. */
  type(data: Uint8Array<ArrayBuffer>): boolean {
    const sent = this.send(data);
    if (sent) this.#pulse?.typed(data.byteLength);
    return sent;
  }

  /** Drops what there is and connects now. */
  reconnect(): void {
    if (this.#disposed) return;
    this.#drop();
    this.#connect();
  }

  /** Final. */
  dispose(): void {
    this.#disposed = true;
    this.#forgetWake();
    this.#drop();
    this.state = 'closed';
  }

  /** `onWake` calls again when the page is seen. */
  #again(): void {
    if (!this.#options.whenSeen || document.visibilityState === 'visible') this.reconnect();
  }

  #drop(): void {
    clearTimeout(this.#timer);
    this.#answers ||= this.#pulse?.answers ?? false;
    this.#pulse?.stop();
    this.#pulse = null;
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #connect(begun?: BegunStream | null): void {
    this.state = 'connecting';
    this.#startedAt = Date.now();
    const socket = begun?.socket ?? new WebSocket(this.#options.url(), this.#options.protocol);
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#lost(1006, 'no answer'), CONNECT_TIMEOUT_MS);
    socket.onopen = () => this.#opened();
    socket.onmessage = (event: MessageEvent<string | ArrayBuffer>) => this.#heard(event.data);
    socket.onclose = (event) => this.#lost(event.code, event.reason);
    if (socket.readyState === WebSocket.OPEN) this.#opened();
    for (const data of begun?.heard ?? []) this.#heard(data);
  }

  #heard(data: string | ArrayBuffer): void {
    if (!this.#pulse?.heard(data)) this.#options.onMessage(data);
  }

  #opened(): void {
    clearTimeout(this.#timer);
    this.state = 'open';
    this.closeCode = 0;
    this.#timer = setTimeout(() => (this.attempt = 0), STEADY_MS);
    this.#pulse = new Pulse(
      (text) => this.send(text),
      () => {
        this.#lost(1006, 'no answer');
        doubt();
      },
      this.#answers,
    );
    this.#options.onOpen?.();
  }

  #lost(code: number, reason: string): void {
    const unconfirmed = this.#pulse?.unconfirmed ?? false;
    this.#drop();
    this.closeCode = code;
    this.closeReason = reason;
    if (this.#options.isFinal(code)) {
      this.state = 'closed';
    } else {
      const delay = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.attempt) * (0.8 + 0.4 * Math.random());
      this.attempt += 1;
      this.retryAt = Date.now() + delay;
      this.state = 'waiting';
      this.#timer = setTimeout(() => this.#again(), delay);
    }
    this.#options.onLost?.(code, unconfirmed);
  }
}

/** The address of a WebSocket of this server. */
export function socketUrl(path: string): string {
  return `${location.protocol === 'https:' ? 'wss:' : 'ws:'}//${location.host}${path}`;
}
