import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { Ui } from './ui.svelte';

let ui: Ui;

beforeEach(() => {
  vi.useFakeTimers();
  ui = new Ui();
});

afterEach(() => {
  vi.useRealTimers();
});

const texts = (): string[] => ui.toasts.map(({ text }) => text);

it('lets notes go by themselves, and errors only when they are dismissed', () => {
  ui.toast('done');
  ui.toast('failed', 'error');
  vi.advanceTimersByTime(60_000);
  expect(texts()).toEqual(['failed']);
  ui.dismiss(ui.toasts[0]?.key ?? 0);
  expect(texts()).toEqual([]);
});

it('lets a note that offers something stay long enough to be reached', () => {
  ui.toast('moved', 'note', { label: 'Undo', run: () => undefined });
  vi.advanceTimersByTime(9_900);
  expect(texts()).toEqual(['moved']);
  vi.advanceTimersByTime(200);
  expect(texts()).toEqual([]);
});

it('lets no time run while the person is at the notes, or cannot see them', () => {
  ui.toast('first');
  vi.advanceTimersByTime(3_000);
  ui.holdNotes(true);
  ui.toast('second');
  vi.advanceTimersByTime(60_000);
  expect(texts()).toEqual(['first', 'second']);
  ui.holdNotes(false);
  vi.advanceTimersByTime(1_100);
  expect(texts()).toEqual(['second']);
  vi.advanceTimersByTime(3_000);
  expect(texts()).toEqual([]);
});

it('drops no error for what comes later', () => {
  ui.toast('failed', 'error');
  for (let number = 1; number <= 9; number += 1) ui.toast(`note ${number}`);
  for (let number = 1; number <= 9; number += 1) ui.toast(`failed too ${number}`, 'error');
  expect(texts()).toContain('failed');
  expect(texts().filter((text) => text.startsWith('note'))).toEqual(['note 6', 'note 7', 'note 8', 'note 9']);
});

it('keeps a bounded number of errors, the newest ones, and says the same thing once', () => {
  for (let number = 1; number <= 100; number += 1) ui.toast(`failed ${number}`, 'error');
  ui.toast('failed 99', 'error');
  expect([texts().length, texts().at(-1), texts().filter((text) => text === 'failed 99').length]).toEqual([30, 'failed 99', 1]);
});
