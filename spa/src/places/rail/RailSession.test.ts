// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, expect, it } from 'vitest';

import { someAgent, someSession } from '../../test/fakes';
import RailSession from './RailSession.svelte';

afterEach(cleanup);

it.each([
  ['waiting', 'Which colour?', 'Which colour?'],
  ['done', '', 'Done'],
  ['unknown', '', 'Rang the terminal bell'],
] as const)('says below the name why a session that is %s needs a person', (state, text, line) => {
  const { container } = render(RailSession, { session: someSession({ tool: 'opencode', agent: someAgent(state, { text }) }), folded: false, number: 0, tall: true });
  expect(container.querySelector('.said')?.textContent).toBe(line);
  expect(screen.getAllByText('opencode')).toHaveLength(1);
});

it.each([
  ['does not name', 'the first session', 1, '', 0],
  ['names', 'a second one', 2, '', 1],
  ['does not name', 'a second one that has a name', 2, 'Totals', 0],
])('%s the slot of %s of a project', (_does, _which, slot, name, shown) => {
  const { container } = render(RailSession, { session: someSession({ slot, name }), folded: false, number: 0, tall: false });
  expect(container.querySelectorAll('[title^="Slot"]')).toHaveLength(shown);
});
