// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { presence } from '../../lib/presence.svelte';
import type { Session } from '../../lib/types';
import { sessions } from '../../state/sessions.svelte';
import { fakeServer, FakeSocket, someSession } from '../../test/fakes';
import Grid from './Grid.svelte';

const IDS = ['one', 'two', 'three'];

vi.mock('../terminal/terminal', () => ({
  SCROLLBACK_LINES: 100,
  openTerminal: (element: HTMLElement) => {
    const textarea = document.createElement('textarea');
    element.append(textarea);
    const terminal = {
      cols: 80,
      rows: 24,
      onData: () => undefined,
      onBinary: () => undefined,
      onResize: () => undefined,
      write: () => undefined,
      reset: () => undefined,
      textarea,
      focus: () => textarea.focus(),
      dispose: () => undefined,
    };
    return { terminal, screen: terminal, fit: () => undefined, show: () => undefined, rest: () => undefined };
  },
}));

let listed: Session[];

/** Says which tiles are in sight. */
let look: (inSight: Readonly<Record<string, boolean>>) => void;

class FakeObserver {
  readonly #tiles: HTMLElement[] = [];

  constructor(tell: (entries: unknown[]) => void) {
    look = (inSight) => {
      tell(this.#tiles.filter(({ dataset }) => (dataset['id'] ?? '') in inSight).map((target) => ({ target, isIntersecting: inSight[target.dataset['id'] ?? ''] })));
      flushSync();
    };
  }

  observe = (tile: HTMLElement): void => void this.#tiles.push(tile);
  unobserve = (): void => undefined;
}

beforeEach(async () => {
  FakeSocket.all = [];
  presence.here = presence.visible = true;
  vi.stubGlobal('WebSocket', FakeSocket);
  vi.stubGlobal('IntersectionObserver', FakeObserver);
  listed = IDS.map((id) => someSession({ id, name: id }));
  fakeServer(() => ({ json: listed }));
  await sessions.refresh();
});

afterEach(() => {
  cleanup();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const tile = (name: string): HTMLElement => screen.getByRole('article', { name });
const socketOf = (id: string): FakeSocket | undefined => FakeSocket.all.find(({ url }) => url.includes(`/${id}`));
const holder = (): string | null | undefined => document.activeElement?.closest('article')?.getAttribute('aria-label');

/** A grid with some of its tiles in sight and connected, one after the other: Vitest stands in for one import at a time. */
async function watched(...inSight: readonly string[]): Promise<void> {
  render(Grid, { ids: IDS });
  for (const [index, id] of inSight.entries()) {
    look({ [id]: true });
    await vi.waitFor(() => expect(FakeSocket.all).toHaveLength(index + 1));
    FakeSocket.last.open();
    flushSync();
  }
}

it('connects no terminal that was never in sight, and pauses one that has been out of sight for a while', async () => {
  await watched('one', 'two');
  expect(socketOf('three')).toBeUndefined();
  vi.useFakeTimers();
  look({ one: false });
  vi.advanceTimersByTime(11_000);
  expect([socketOf('one')?.sent, socketOf('two')?.sent]).toEqual([['{"type":"pause"}'], []]);
  look({ one: true });
  expect(socketOf('one')?.sent.at(-1)).toBe('{"type":"resume"}');
});

it('gives the keys to the terminal that a click chose, and to the next one by the keys for that, round and round', async () => {
  await watched(...IDS);
  tile('two').querySelector('textarea')?.focus();
  flushSync();
  const step = async (key: string): Promise<void> => {
    document.activeElement?.dispatchEvent(new KeyboardEvent('keydown', { key, ctrlKey: true, shiftKey: true, bubbles: true, cancelable: true }));
    flushSync();
    await vi.waitFor(() => expect(holder()).toBe(screen.getAllByRole('article').find((one) => one.classList.contains('active'))?.getAttribute('aria-label')));
  };
  await step('ArrowRight');
  expect(holder()).toBe('three');
  await step('ArrowRight');
  expect(holder()).toBe('one');
  await step('ArrowLeft');
  expect(holder()).toBe('three');
});

it('goes on with those that are left when a session is gone', async () => {
  await watched(...IDS);
  listed = listed.filter(({ id }) => id !== 'one');
  await sessions.refresh();
  flushSync();
  expect(screen.getAllByRole('article').map((one) => one.getAttribute('aria-label'))).toEqual(['two', 'three']);
  expect(tile('two').classList.contains('active')).toBe(true);
});
