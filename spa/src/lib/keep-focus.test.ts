// @vitest-environment happy-dom
// In an environment of its own: ALONE in vite.config.ts.
import { beforeAll, beforeEach, expect, it, vi } from 'vitest';

import { keepFocus } from './keep-focus';

beforeAll(() => {
  // Without layout nothing has a size.
  HTMLElement.prototype.getClientRects = () => [{}] as unknown as DOMRectList;
  keepFocus();
});

const row = (name: string): string => `<li><a href="/${name}">${name}</a><button>Stop</button><button>More</button></li>`;
const focused = (): string | null | undefined => document.activeElement?.textContent;

function put(html: string): void {
  const list = document.querySelector('ul');
  if (list) list.innerHTML = html;
}

function focusMoreOf(name: string): void {
  document.querySelector(`a[href="/${name}"]`)?.closest('li')?.querySelector<HTMLElement>('button:last-child')?.focus();
}

beforeEach(() => {
  document.body.innerHTML = `<ul>${row('one')}${row('two')}</ul>`;
});

it('goes along with a row that is drawn anew elsewhere', async () => {
  focusMoreOf('two');
  put(row('two') + row('one'));
  await vi.waitFor(() => expect(focused()).toBe('More'));
  expect(document.activeElement?.closest('li')?.textContent).toContain('two');
});

it('goes to what is left when the row goes while a dialog has the keys', async () => {
  focusMoreOf('two');
  const dialog = document.createElement('div');
  dialog.setAttribute('role', 'alertdialog');
  dialog.innerHTML = '<button>Delete</button>';
  document.body.append(dialog);
  dialog.querySelector('button')?.focus();
  put(row('one'));
  await Promise.resolve();
  expect(focused()).toBe('Delete');
  dialog.remove();
  await vi.waitFor(() => expect(document.activeElement?.closest('li')?.textContent).toContain('one'));
});
