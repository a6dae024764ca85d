// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { followKeyboard } from './viewport';

const HEIGHT = 800;

class Seen extends EventTarget {
  height = HEIGHT;
  scale = 1;
  offsetTop = 0;

  become(fields: Partial<Seen>, event = 'resize'): void {
    Object.assign(this, fields);
    this.dispatchEvent(new Event(event));
  }
}

let seen: Seen;

const said = (): (string | undefined)[] => {
  const { style } = document.documentElement;
  return ['--app-height', '--app-top', '--keyboard'].map((name) => style.getPropertyValue(name) || undefined);
};

beforeEach(() => {
  seen = new Seen();
  vi.stubGlobal('visualViewport', seen);
  vi.stubGlobal('innerHeight', HEIGHT);
  followKeyboard();
});

afterEach(() => {
  seen.become({ height: HEIGHT, scale: 1, offsetTop: 0 });
  vi.unstubAllGlobals();
});

it('leaves the height to the page while no keyboard is up', () => {
  expect(said()).toEqual([undefined, undefined, undefined]);
});

it('says what a keyboard leaves, and where Safari has scrolled it to', () => {
  seen.become({ height: 460 });
  expect(said()).toEqual(['460px', '0px', '340px']);
  seen.become({ offsetTop: 100 }, 'scroll');
  expect(said()).toEqual(['460px', '100px', '240px']);
  seen.become({ height: HEIGHT, offsetTop: 0 });
  expect(said()).toEqual([undefined, undefined, undefined]);
});

it.each([
  ['a zoom with two fingers', { height: HEIGHT / 2, scale: 2 }],
  ['a bar of the browser', { height: HEIGHT - 50 }],
])('takes %s for no keyboard', (_, fields) => {
  seen.become(fields);
  expect(said()).toEqual([undefined, undefined, undefined]);
});
