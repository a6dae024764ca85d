// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, expect, it, vi } from 'vitest';

import { fakeServer, someAppeared } from '../../test/fakes';
import ChangedFiles from './ChangedFiles.svelte';
import { Changes } from './changes.svelte';
import { Comments } from './comments.svelte';

const LIST = { files: [], others: [], stale: '', truncated: false, skipped: [], appeared: [] };

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

async function show(answer: object): Promise<void> {
  fakeServer(() => ({ json: { ...LIST, ...answer } }));
  const changes = new Changes('a');
  await changes.look({ from: 'start', to: 'now' });
  const nothing = (): void => undefined;
  render(ChangedFiles, { changes, comments: new Comments('a'), path: '', turn: false, folded: new Set<string>(), onopen: nothing, onretry: nothing });
}

it('says above the files what appeared and runs on this machine', async () => {
  await show({ appeared: [someAppeared({ path: 'lib/.git', commands: [{ key: 'core.pager', value: 'sh -c evil', truncated: false }] })] });
  expect(screen.getByText('1 thing appeared that can run on your machine')).toBeTruthy();
  expect(screen.getByText('sh -c evil')).toBeTruthy();
});

it('says that the paths without a comparison are more than are listed', async () => {
  await show({ skipped: [{ path: 'big', why: 'large' }], skipped_truncated: true });
  expect(screen.getByText('1 path and more not compared')).toBeTruthy();
});

it('says that more may have appeared than is listed', async () => {
  await show({ appeared: [someAppeared()], appeared_truncated: true });
  expect(screen.getByText('There may be more that is not listed.')).toBeTruthy();
});

it('lists a path twice that stands in the folder and, with another content, in commits', async () => {
  await show({ appeared: [someAppeared({ path: '.mcp.json', kind: 'settings' }), someAppeared({ path: '.mcp.json', kind: 'commit' })] });
  expect(screen.getAllByText('.mcp.json')).toHaveLength(2);
});

it('says nothing of the kind where nothing appeared', async () => {
  await show({});
  expect(screen.queryByText(/appeared/)).toBeNull();
  expect(screen.getByText('Nothing changed')).toBeTruthy();
});
