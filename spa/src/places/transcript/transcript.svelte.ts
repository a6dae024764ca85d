/** The conversation of a session, or its messages with some words, read in parts. */
import { sentence } from '../../lib/api';
import { type Part, readPart } from '../../lib/api-transcript';
import type { Conversation, Message } from '../../lib/types';

/** Messages of a part. */
export const LIMIT = 50;

const byId = (messages: readonly Message[]): Message[] => [...new Map(messages.map((message) => [message.id, message])).values()];

export class Transcript {
  phase = $state<'loading' | 'ready' | 'error'>('loading');
  /** Why the newest look failed; what is known stays. */
  error = $state('');
  state = $state<Conversation['state']>('none');
  /** The tool that has written it. */
  tool = $state('');
  savedAt = $state<string | null>(null);
  /** The oldest first. */
  messages = $state.raw<readonly Message[]>([]);
  /** The places at which they begin and end, and at which the conversation ends. */
  start = $state(0);
  end = $state(0);
  size = $state(0);
  busy = $state<'' | 'older' | 'newer'>('');

  readonly hasOlder = $derived(this.start > 0);
  readonly hasNewer = $derived(this.end < this.size);
  #conversation: string | null = null;
  /** Counts the beginnings: an answer that belongs to an earlier one is dropped. */
  #turn = 0;

  constructor(
    readonly session: string,
    /** The words that each message has; empty for all messages. */
    readonly words = '',
  ) {}

  /** Reads the newest messages, or those around a place. */
  async begin(around: number | null = null): Promise<void> {
    const turn = (this.#turn += 1);
    this.phase = 'loading';
    this.busy = '';
    if (!(await this.#newest(turn))) return;
    if (around === null) return;
    this.messages = [];
    this.start = this.end = around;
    await this.newer();
    if (turn === this.#turn) await this.older();
  }

  /** Drops the answers that are on their way. */
  stop(): void {
    this.#turn += 1;
  }

  /** Reads what has been written since, if the newest messages are shown; begins anew when the tool has. */
  async follow(): Promise<void> {
    if (this.phase === 'error') return this.begin();
    if (this.phase === 'loading' || this.busy) return;
    const turn = this.#turn;
    const wasAtEnd = !this.hasNewer;
    const found = await this.#ask({ after: wasAtEnd ? this.end : this.size }, turn);
    if (!found) return;
    if (found.conversation !== this.#conversation || found.state !== this.state || found.size < this.end) {
      await this.#newest(turn);
      return;
    }
    this.#tell(found);
    if (!wasAtEnd) return;
    this.messages = byId([...this.messages, ...found.messages]);
    this.end = found.end;
  }

  /** Reads the messages before: an answer may have none although more follow. */
  async older(): Promise<void> {
    const turn = this.#turn;
    if (this.busy) return;
    this.busy = 'older';
    const known = this.messages.length;
    while (this.hasOlder && this.messages.length === known) {
      const found = await this.#ask({ before: this.start }, turn);
      if (!found) break;
      this.messages = byId([...found.messages, ...this.messages]);
      this.start = found.start;
    }
    if (turn === this.#turn) this.busy = '';
  }

  /** Reads the messages behind. */
  async newer(): Promise<void> {
    const turn = this.#turn;
    if (this.busy) return;
    this.busy = 'newer';
    const known = this.messages.length;
    while (this.hasNewer && this.messages.length === known) {
      const found = await this.#ask({ after: this.end }, turn);
      if (!found || found.end === this.end) break;
      this.messages = byId([...this.messages, ...found.messages]);
      this.end = found.end;
      this.#tell(found);
    }
    if (turn === this.#turn) this.busy = '';
  }

  /** Whether the newest messages are there. */
  async #newest(turn: number): Promise<boolean> {
    const found = await this.#ask({}, turn);
    if (!found) return false;
    this.#tell(found);
    this.#conversation = found.conversation;
    this.state = found.state;
    this.messages = found.messages;
    this.start = found.start;
    this.end = found.end;
    this.phase = 'ready';
    if (found.messages.length === 0) await this.older();
    return turn === this.#turn;
  }

  #tell(found: Conversation): void {
    this.tool = found.tool;
    this.savedAt = found.saved_at;
    this.size = found.size;
  }

  async #ask(part: Omit<Part, 'limit' | 'q'>, turn: number): Promise<Conversation | null> {
    try {
      const found = await readPart(this.session, { ...part, limit: LIMIT, q: this.words });
      if (turn !== this.#turn) return null;
      this.error = '';
      return found;
    } catch (error) {
      if (turn !== this.#turn) return null;
      this.error = sentence(error);
      if (this.phase === 'loading') this.phase = 'error';
      return null;
    }
  }
}
