// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Checkpoint } from '../../lib/types';
import { fakeServer } from '../../test/fakes';
import { SINCE_START } from './address';
import { Changes } from './changes.svelte';
import Timeline from './Timeline.svelte';

const some = (checkpoint: string, why: Checkpoint['why'], note = ''): Checkpoint => ({ checkpoint, at: '', why, note, files: 0, added: 0, removed: 0 });
const KEPT = [some('4', 'person', 'before lunch'), some('3', 'turn'), some('2', 'prompt'), some('1', 'start')];

let changes: Changes;

beforeEach(() => {
  fakeServer(() => ({ json: KEPT }));
  changes = new Changes('a');
});

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

async function open(hindrance = '') {
  await changes.lookAtCheckpoints();
  const oncompare = vi.fn();
  render(Timeline, { changes, address: SINCE_START, hindrance, oncompare, onundo: vi.fn() });
  return oncompare;
}

it('lists the checkpoints, and compares one with now', async () => {
  const oncompare = await open();
  expect(screen.getAllByRole('listitem').map((item) => item.querySelector('.truncate')?.textContent)).toEqual(['before lunch', 'After a turn', 'Before a prompt', 'Start']);
  await userEvent.click(screen.getByText('Start'));
  expect(oncompare).toHaveBeenCalledWith('1', 'now');
});

it('says why no checkpoint can be made', async () => {
  await open('the session does not run');
  const button = screen.getByRole<HTMLButtonElement>('button', { name: 'Make a checkpoint' });
  expect([button.disabled, button.title]).toEqual([true, 'the session does not run']);
});
