import { expect, it } from 'vitest';

import { addressOf, readAddress, SINCE_START } from './address';

it('is short for what is shown at first', () => {
  expect(addressOf('s', SINCE_START)).toBe('/sessions/s/changes');
  expect(readAddress('')).toEqual(SINCE_START);
});

it.each([
  { from: 'turn', to: 'now', path: '' },
  { from: 'start', to: 'now', path: 'src/a b&c?.ts' },
  { from: '3', to: '7', path: 'caf\udce9.txt' },
])('leads back to %o', (address) => {
  expect(readAddress(new URL(addressOf('s', address), 'http://h').search)).toEqual(address);
});
