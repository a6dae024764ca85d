// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { ui } from '../../state/ui.svelte';
import { workspaces } from '../../state/workspaces.svelte';
import { type Call, fakeServer } from '../../test/fakes';
import NewProject from './NewProject.svelte';

let calls: Call[];
let roots: string[];

beforeEach(() => {
  roots = ['/home/me/work', '/home/me/play'];
  calls = fakeServer(({ path }) =>
    path === '/api/workspaces/folder'
      ? { status: 201, json: { path: '/home/me/work/my-game' } }
      : { json: { roots, expanded_roots: roots, workspaces: [] } },
  );
});

afterEach(() => {
  ui.newProject = false;
  ui.newSession = null;
  cleanup();
  vi.unstubAllGlobals();
});

const folder = () => screen.getByRole<HTMLSelectElement>('combobox', { name: 'Folder' });
const name = () => screen.getByRole<HTMLInputElement>('textbox', { name: /^Name/ });

it('keeps what is filled in when the projects are fetched anew, as after a lost connection', async () => {
  await workspaces.refresh();
  ui.newProject = true;
  render(NewProject);
  await userEvent.type(name(), 'my-game');
  await workspaces.refresh();
  flushSync();
  expect([folder().value, name().value]).toEqual(['/home/me/work', 'my-game']);
  await userEvent.click(screen.getByRole('button', { name: 'Create project' }));
  expect(calls.find(({ method }) => method === 'POST')?.body).toBe('{"root":"/home/me/work","name":"my-game","git":true}');
  expect(ui.newSession?.workspace).toBe('/home/me/work/my-game');
});

it('takes the first folder when the list comes after it was opened', async () => {
  roots = [];
  await workspaces.refresh();
  ui.newProject = true;
  render(NewProject);
  roots = ['/home/me/work'];
  await workspaces.refresh();
  flushSync();
  expect(folder().value).toBe('/home/me/work');
});

it('is empty when it is opened again', async () => {
  await workspaces.refresh();
  ui.newProject = true;
  render(NewProject);
  await userEvent.type(name(), 'my-game');
  ui.newProject = false;
  flushSync();
  ui.newProject = true;
  flushSync();
  expect(name().value).toBe('');
});
