// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, expect, it, vi } from 'vitest';

import type { ProtectionReport } from '../../lib/types';
import { fakeServer, someAppeared, someSealedChange, someSession } from '../../test/fakes';
import ProtectionFacts from './ProtectionFacts.svelte';

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

const REPORT: ProtectionReport = {
  level: 'locked',
  note: '',
  sealed: [],
  changes: [],
  appeared: [],
  appeared_truncated: false,
};

function show(report: Partial<ProtectionReport>): void {
  fakeServer(() => ({ json: { ...REPORT, ...report } }));
  render(ProtectionFacts, { session: someSession() });
}

it('lists what is sealed, and why', async () => {
  show({ sealed: [{ path: '/w/my-app/.git/hooks', why: 'git runs what lies there' }] });
  expect(await screen.findByText('1 path sealed')).toBeTruthy();
  expect(screen.getByText('.git/hooks')).toBeTruthy();
  expect(screen.getByText('git runs what lies there')).toBeTruthy();
});

it('lists what appeared, on which occasion it runs, and its commands', async () => {
  show({ appeared: [someAppeared({ path: 'lib/.git', commands: [{ key: 'core.fsmonitor', value: '/tmp/evil', truncated: false }] })] });
  const section = await screen.findByRole('region', { name: 'What appeared' });
  expect(section.textContent.replace(/\s+/g, ' ')).toMatch(/lib\/\.git runs on your machine when you run git there core\.fsmonitor ?\/tmp\/evil/);
});

it('marks a command that is cut, and a list of commands that is', async () => {
  const commands = [{ key: 'core.pager', value: 'less', truncated: true }, { key: 'hook', value: 'post-merge', truncated: false }];
  show({ appeared: [someAppeared({ commands, truncated: true })] });
  expect(await screen.findByText('less …')).toBeTruthy();
  expect(screen.getByText('post-merge')).toBeTruthy();
  expect(screen.getByText('and more')).toBeTruthy();
});

it('says that more may have appeared than the server lists', async () => {
  show({ appeared: [someAppeared()], appeared_truncated: true });
  expect(await screen.findByText('There may be more that is not listed.')).toBeTruthy();
});

it('names the first twenty of many', async () => {
  show({ appeared: Array.from({ length: 23 }, (_, at) => someAppeared({ path: `${at}/.git` })) });
  expect(await screen.findByText('and 3 more')).toBeTruthy();
  expect(screen.getAllByRole('listitem')).toHaveLength(21);
});

it('lists what became another file', async () => {
  show({ changes: [someSealedChange()] });
  expect((await screen.findByRole('region', { name: 'Broken seals' })).textContent).toContain('.git/config');
});

it('says nothing where the server says nothing', async () => {
  fakeServer(() => ({ status: 404, json: { error: 'unknown session' } }));
  const { container } = render(ProtectionFacts, { session: someSession() });
  await new Promise((resolve) => setTimeout(resolve));
  expect(container.textContent.trim()).toBe('');
});
