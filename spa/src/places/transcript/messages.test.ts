import { expect, it } from 'vitest';

import type { Message } from '../../lib/types';
import { pair, placeOf, snippet } from './messages';

const some = (fields: Partial<Message>): Message => ({
  id: '0.0', at: null, role: 'agent', kind: 'text', text: '', tool: null, title: null, call: null, failed: false, cut: false, ...fields,
});

it('puts a result to its call, and leaves one alone whose call was not read', () => {
  const call = some({ id: '1.0', kind: 'call', call: 'a' });
  const result = some({ id: '2.0', kind: 'result', call: 'a' });
  const lone = some({ id: '0.0', kind: 'result', call: 'b' });
  expect(pair([lone, call, result])).toEqual([
    { message: lone, result: null },
    { message: call, result },
  ]);
});

it('knows the place of a message', () => {
  expect(placeOf(some({ id: '81920.3' }))).toBe(81920);
});

it('shows the words around a hit, also in the title of a call', () => {
  expect(snippet(some({ text: `${'x'.repeat(100)} the\nLogin page` }), 'login')).toEqual({
    before: `…${'x'.repeat(75)} the `, hit: 'Login', after: ' page',
  });
  expect(snippet(some({ tool: 'Bash', title: 'npm test', text: '' }), 'NPM').hit).toBe('npm');
  expect(snippet(some({ text: 'straße' }), 'strasse')).toEqual({ before: 'straße', hit: '', after: '' });
});
