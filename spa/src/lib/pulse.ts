/**
 * Finds out whether an open connection still leads anywhere. A browser neither shows nor sends the pings of WebSocket, and
 * a connection whose other end slept or changed its network looks open for many minutes; so the page asks by itself.
 */
const PING = '{"type": "ping"}';
/** After so long without a word the other end is asked whether it is there. */
const QUIET_MS = 15_000;
/** So long after something was typed it is asked whether that came in. */
const TYPED_MS = 500;
const ANSWER_MS = 3_000;
/** A program that does not take what was pasted holds all up that follows. The server has patience for less than this. */
const MUCH_BYTES = 16 * 1024;
const ANSWER_TO_MUCH_MS = 60_000;
/** A timer this late was held up by sleep or in a frozen page, and what has arrived meanwhile waits behind it. */
const LATE_MS = 1_000;

export class Pulse {
  readonly #send: (text: string) => void;
  readonly #onDead: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #heardAt = Date.now();
  /** When it was asked; 0 while no answer is due. */
  #askedAt = 0;
  /** It has answered before. A server that does not know the question is not judged by its silence. */
  #answers = false;
  /** It has answered over a connection before this one. */
  readonly #isKnown: boolean;
  /** Bytes that were typed in all, those of them before the last question, and those before the last answer. */
  #typed = 0;
  #typedAtPing = 0;
  #taken = 0;

  constructor(send: (text: string) => void, onDead: () => void, isKnown: boolean) {
    this.#send = send;
    this.#onDead = onDead;
    this.#isKnown = isKnown;
    this.ask();
  }

  /** Whether the other end knows the question. */
  get answers(): boolean {
    return this.#answers || this.#isKnown;
  }

  /** Whether something was typed of which nobody knows that it has arrived. */
  get unconfirmed(): boolean {
    return this.#answers && this.#typed > this.#taken;
  }

  typed(bytes: number): void {
    const first = this.#typed === this.#taken;
    this.#typed += bytes;
    if (first && !this.#askedAt) this.#look(TYPED_MS);
  }

  /** Takes notice of a message, and says whether it was for here. */
  heard(data: string | ArrayBuffer): boolean {
    this.#heardAt = Date.now();
    if (typeof data !== 'string' || !/^\{"type": ?"pong"\}$/.test(data)) return false;
    this.#answers = true;
    this.#askedAt = 0;
    this.#taken = this.#typedAtPing;
    this.#look(this.#typed > this.#taken ? TYPED_MS : QUIET_MS);
    return true;
  }

  ask(): void {
    if (this.#askedAt) return;
    this.#askedAt = Date.now();
    this.#typedAtPing = this.#typed;
    this.#send(PING);
    this.#look(ANSWER_MS);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #look(after: number): void {
    clearTimeout(this.#timer);
    const due = Date.now() + after;
    this.#timer = setTimeout(() => this.#judge(Date.now() - due > LATE_MS), after);
  }

  #judge(late: boolean): void {
    const now = Date.now();
    if (!this.#askedAt) {
      const quiet = now - this.#heardAt;
      if (quiet >= QUIET_MS || this.#typed > this.#taken) this.ask();
      else this.#look(QUIET_MS - quiet);
      return;
    }
    if (late) this.#askedAt = now;
    // A server that has just been started may take its time for a first answer.
    const usual = this.#answers ? ANSWER_MS : QUIET_MS;
    const patience = this.#typed - this.#taken > MUCH_BYTES ? ANSWER_TO_MUCH_MS : usual;
    const silent = now - Math.max(this.#askedAt, this.#heardAt);
    if (silent < patience) this.#look(patience - silent);
    else if (this.answers) this.#onDead();
  }
}
