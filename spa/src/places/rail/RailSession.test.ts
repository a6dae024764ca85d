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
