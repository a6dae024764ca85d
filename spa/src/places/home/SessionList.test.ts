// @vitest-environment happy-dom
import { cleanup, render } from '@testing-library/svelte';
import { flushSync } from 'svelte';
import { afterEach, expect, it, vi } from 'vitest';

import { sessions } from '../../state/sessions.svelte';
import { fakeServer, someAgent, someSealedChange, someSession } from '../../test/fakes';
import { commands } from '../frame/commands.svelte';
import RailSessions from '../rail/RailSessions.svelte';
import SessionList from './SessionList.svelte';

const COUNT = 130;

const all = (count = COUNT) =>
  Array.from({ length: count }, (_, number) =>
    someSession({ id: `clincus-${number}`, workspace: `/p/project-${number}`, agent: someAgent('waiting') }),
  );

async function list(listed = all()): Promise<void> {
  fakeServer(() => ({ json: listed }));
  await sessions.refresh();
  flushSync();
}

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

it('folds a long group, also that of the sessions which need a person', async () => {
  await list(all(26));
  const { container } = render(SessionList);
  const more = (): HTMLElement | null => container.querySelector('.more');
  const shown = () => [container.querySelectorAll('.row').length, more()?.textContent.trim()];
  for (const step of [
    [20, 'Show 6 more'],
    [26, 'Show fewer'],
    [20, 'Show 6 more'],
  ]) {
    await vi.waitFor(() => expect(shown()).toEqual(step));
    more()?.click();
    flushSync();
  }
});

it('draws many sessions in portions, so that no task is long', async () => {
  await list(all(40));
  const { container } = render(RailSessions, { folded: false });
  const drawn = () => container.querySelectorAll('li').length;
  expect(drawn()).toBeLessThan(20);
  await vi.waitFor(() => expect(drawn()).toBe(40));
});

it('marks a session in whose project something appeared that runs on this machine, and leads to it', async () => {
  await list([someSession({ id: 'quiet' }), someSession({ id: 'marked', appeared: 2 })]);
  const { getAllByRole } = render(SessionList);
  const marks = getAllByRole('link').filter(({ textContent }) => textContent.includes('appeared'));
  expect(marks.map((mark) => [mark.textContent, mark.getAttribute('href')])).toEqual([['2 appeared', '/sessions/marked/changes']]);
});

it('shows a broken seal: the state, the badge, and what was changed', async () => {
  await list([someSession({ status: 'stopped', paused: true, protection: 'broken', protection_changes: [someSealedChange()] })]);
  const { getAllByText } = render(SessionList);
  expect(['Frozen', 'seal broken', 'changed: .git/config'].map((words) => getAllByText(words).length > 0)).toEqual([true, true, true]);
});

it('draws nothing of the other sessions when one changes', async () => {
  await list(all(40));
  const { container } = render(RailSessions, { folded: false });
  await vi.waitFor(() => expect(container.querySelectorAll('li')).toHaveLength(40));
  const touched = new Set<string>();
  const observer = new MutationObserver((changes) => {
    for (const { target } of changes) touched.add(target.parentElement?.closest('li')?.textContent ?? '');
  });
  observer.observe(container, { subtree: true, childList: true, characterData: true, attributes: true });
  const before = sessions.list;
  await list(all(40).map((one) => (one.id === 'clincus-7' ? { ...one, name: 'renamed' } : one)));
  await Promise.resolve();
  observer.disconnect();
  expect(sessions.list.filter((one) => !before.includes(one)).map(({ id }) => id)).toEqual(['clincus-7']);
  expect([...touched].map((text) => text.includes('renamed'))).toEqual([true]);
});

it('offers the best of many that are searched for, and says how many more there are', async () => {
  await list();
  const [found] = commands.search('project-1');
  expect([found?.title, found?.commands.length, found?.left]).toEqual(['Sessions', 30, 19]);
  expect([found?.commands[0]?.title, commands.search('')[0]?.left]).toEqual(['project-1', 0]);
});
