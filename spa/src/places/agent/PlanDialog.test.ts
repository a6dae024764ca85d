// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, expect, it, vi } from 'vitest';

import type { Session } from '../../lib/types';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { fakeServer, type Reply, someAgent, someSession } from '../../test/fakes';
import PlanDialog from './PlanDialog.svelte';

afterEach(() => {
  cleanup();
  ui.plan = '';
  vi.unstubAllGlobals();
});

const waiting = (question: number): Session =>
  someSession({ agent: someAgent('waiting', { reason: 'plan', text: 'A plan', options: ['Yes, go on', 'No'], question }) });

it('offers no answer to a plan whose text is not there yet', async () => {
  let session = waiting(1);
  let give: ((reply: Reply) => void) | undefined;
  fakeServer(({ path }) => (path.endsWith('/agent') ? new Promise<Reply>((resolve) => (give = resolve)) : { json: [session] }));
  const answer = (detail: string): void => {
    give?.({ json: { ...session.agent, detail } });
    give = undefined;
  };
  await sessions.refresh();
  ui.plan = 'a';
  render(PlanDialog);
  await vi.waitFor(() => expect(give).toBeDefined());
  expect(screen.queryByRole('button', { name: /Yes, go on/ })).toBeNull();
  answer('The first plan');
  expect(await screen.findByText('The first plan')).toBeTruthy();
  expect(await screen.findByRole('button', { name: /Yes, go on/ })).toBeTruthy();
  session = waiting(2);
  await sessions.refresh();
  await vi.waitFor(() => expect(screen.queryByRole('button', { name: /Yes, go on/ })).toBeNull());
  await vi.waitFor(() => expect(give).toBeDefined());
  answer('Another plan');
  expect(await screen.findByText('Another plan')).toBeTruthy();
  expect(await screen.findByRole('button', { name: /Yes, go on/ })).toBeTruthy();
});
