import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Message } from '../../lib/types';
import { type Call, fakeServer } from '../../test/fakes';
import { Transcript } from './transcript.svelte';

const LINE = 10;
let said: string[];
let conversation: string;
let calls: Call[];

const message = (index: number): Message => ({
  id: `${index * LINE}.0`, at: null, role: 'agent', kind: 'text', text: said[index] ?? '', tool: null, title: null, call: null, failed: false, cut: false,
});

/** Answers as the server does, for lines of ten bytes and two messages a part. */
function part(path: string): unknown {
  const query = new URL(path, 'http://a').searchParams;
  const size = said.length * LINE;
  const after = query.get('after');
  const before = Number(query.get('before') ?? size);
  const lines = after === null ? [Math.max(0, before / LINE - 2), before / LINE] : [Number(after) / LINE, Math.min(said.length, Number(after) / LINE + 2)];
  const [first = 0, last = 0] = lines;
  const found = said.slice(first, last).map((_, index) => message(first + index));
  const words = query.get('q') ?? '';
  const messages = found.filter(({ text }) => text.includes(words));
  return { state: 'ready', tool: 'claude', conversation, saved_at: null, messages, start: first * LINE, end: last * LINE, size };
}

beforeEach(() => {
  said = Array.from({ length: 7 }, (_, index) => `answer ${index}`);
  conversation = 'one';
  calls = fakeServer(({ path }) => ({ json: part(path) }));
});

afterEach(() => vi.unstubAllGlobals());

const texts = (transcript: Transcript): string[] => transcript.messages.map(({ text }) => text);

it('reads the newest part, and older ones on demand', async () => {
  const transcript = new Transcript('a');
  await transcript.begin();
  expect(texts(transcript)).toEqual(['answer 5', 'answer 6']);
  await transcript.older();
  expect(texts(transcript)).toEqual(['answer 3', 'answer 4', 'answer 5', 'answer 6']);
  await transcript.older();
  await transcript.older();
  expect(transcript.hasOlder).toBe(false);
  expect(transcript.messages).toHaveLength(7);
});

it('adds what is written while it is shown', async () => {
  const transcript = new Transcript('a');
  await transcript.begin();
  said.push('answer 7');
  await transcript.follow();
  expect(texts(transcript)).toEqual(['answer 5', 'answer 6', 'answer 7']);
});

it('begins anew when the tool has', async () => {
  const transcript = new Transcript('a');
  await transcript.begin();
  conversation = 'two';
  said = ['hello'];
  await transcript.follow();
  expect(texts(transcript)).toEqual(['hello']);
});

it('shows the messages around a place', async () => {
  const transcript = new Transcript('a');
  await transcript.begin(2 * LINE);
  expect(texts(transcript)).toEqual(['answer 0', 'answer 1', 'answer 2', 'answer 3']);
  expect(transcript.hasNewer).toBe(true);
  await transcript.follow();
  expect(texts(transcript)).toHaveLength(4);
  await transcript.newer();
  await transcript.newer();
  expect(texts(transcript).at(-1)).toBe('answer 6');
});

it('searches past parts without a hit', async () => {
  const hits = new Transcript('a', 'answer 0');
  await hits.begin();
  expect(texts(hits)).toEqual(['answer 0']);
  expect(calls.length).toBeGreaterThan(2);
});

it('keeps what it shows when a look fails', async () => {
  const transcript = new Transcript('a');
  await transcript.begin();
  fakeServer(() => ({ status: 503, json: { error: 'busy' } }));
  await transcript.follow();
  expect(transcript.error).toBe('Busy');
  expect(transcript.phase).toBe('ready');
  expect(texts(transcript)).toHaveLength(2);
});
