/** Keeps a request whose answer was lost from doing its work twice when it is sent again (`Idempotency-Key`). */
import { ApiError } from './api';

/** A page on plain HTTP has no randomUUID. */
function newKey(): string {
  if ('randomUUID' in crypto) return crypto.randomUUID();
  const bytes = (crypto as Crypto).getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export class Once {
  /** The newest try of each sender whose answer was lost. */
  readonly #lost = new Map<string, { content: string; key: string }>();

  /** Sends with a new key, or with that of the sender's last try if its answer was lost and it had the same content. */
  async send<T>(sender: string, content: string, request: (key: string) => Promise<T>): Promise<T> {
    const lost = this.#lost.get(sender);
    const key = lost?.content === content ? lost.key : newKey();
    try {
      const answer = await request(key);
      this.#lost.delete(sender);
      return answer;
    } catch (error) {
      if (error instanceof ApiError && error.status > 0) this.#lost.delete(sender);
      else this.#lost.set(sender, { content, key });
      throw error;
    }
  }
}
