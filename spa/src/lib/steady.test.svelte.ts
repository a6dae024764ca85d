// @vitest-environment happy-dom
// In an environment of its own: ALONE in vite.config.ts.
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { Steady } from './steady.svelte';

let steady: Steady;
let list: HTMLElement;
let stop: (() => void) | undefined;

beforeEach(() => {
  vi.useFakeTimers();
  document.body.innerHTML = '<ul><li><a href="/x">x</a></li></ul><input>';
  list = document.querySelector('ul') ?? document.body;
  steady = new Steady();
  stop = steady.list(list) ?? undefined;
});

afterEach(() => {
  stop?.();
  vi.useRealTimers();
});

const point = (name: string): unknown => list.dispatchEvent(new Event(name));

it('holds while the pointer is in the list', () => {
  point('pointermove');
  expect(steady.held).toBe(true);
  point('pointerleave');
  expect(steady.held).toBe(false);
});

it('lets go when the pointer has rested', () => {
  point('pointermove');
  vi.advanceTimersByTime(10_000);
  expect(steady.held).toBe(false);
});

it('lets go when somebody types elsewhere, and holds when they move in the list by keys', () => {
  point('pointermove');
  document.querySelector('input')?.dispatchEvent(new KeyboardEvent('keydown', { key: 'x', bubbles: true }));
  expect(steady.held).toBe(false);
  document.querySelector('a')?.dispatchEvent(new KeyboardEvent('keydown', { key: 'Tab', bubbles: true }));
  expect(steady.held).toBe(true);
});
