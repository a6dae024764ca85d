/** How messages are shown: a call with its result as one, and the words around a hit. */
import { toolName } from '../../lib/format';
import type { Message } from '../../lib/types';

export interface Item {
  message: Message;
  /** The result of a call; null if it is not there, or is no part of it. */
  result: Message | null;
}

/** Each result stands with its call, unless that is in a part that was not read. */
export function pair(messages: readonly Message[]): Item[] {
  const results = new Map<string, Message>();
  for (const message of messages) if (message.kind === 'result' && message.call !== null) results.set(message.call, message);
  const calls = new Set(messages.filter(({ kind }) => kind === 'call').map(({ call }) => call));
  return messages
    .filter(({ kind, call }) => kind !== 'result' || call === null || !calls.has(call))
    .map((message) => ({ message, result: message.kind === 'call' && message.call !== null ? (results.get(message.call) ?? null) : null }));
}

/** The place in the conversation at which a message's line begins. */
export const placeOf = ({ id }: Message): number => Number.parseInt(id, 10);

/** The author of a message, in a word. */
export function authorOf({ role, kind, tool: called }: Message, tool: string): string {
  if (role === 'person') return 'You';
  if (role === 'system') return 'Notice';
  if (kind === 'call') return called ?? 'Call';
  if (kind === 'result') return 'Result';
  return toolName(tool) || 'Agent';
}

export interface Snippet {
  before: string;
  hit: string;
  after: string;
}

const AROUND = 80;

/** The words around the first hit in a message, in one line; its beginning if it is found in none of its texts. */
export function snippet({ tool, title, text }: Message, words: string): Snippet {
  const all = [tool, title, text].filter(Boolean).join('\n');
  const at = all.toLowerCase().indexOf(words.toLowerCase());
  const line = (part: string): string => part.replace(/\s+/g, ' ');
  if (at < 0) return { before: line(all.slice(0, 2 * AROUND)), hit: '', after: '' };
  const from = Math.max(0, at - AROUND);
  const end = at + words.length;
  return {
    before: (from > 0 ? '…' : '') + line(all.slice(from, at)),
    hit: line(all.slice(at, end)),
    after: line(all.slice(end, end + AROUND)) + (end + AROUND < all.length ? '…' : ''),
  };
}
