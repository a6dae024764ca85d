/** The call of a session's conversation. Only the Transcript tab loads it. */
import { find, session } from './api';
import type { Conversation } from './types';

/** A part of a conversation: the newest without a place, the one before a place, or the one behind it. */
export interface Part {
  before?: number;
  after?: number;
  limit: number;
  /** Only messages with these words. */
  q?: string;
}

export async function readPart(id: string, part: Part): Promise<Conversation> {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(part)) if (value !== undefined && value !== '') query.set(name, String(value));
  return (await (await find(`${session(id)}/conversation?${query.toString()}`)).json()) as Conversation;
}
