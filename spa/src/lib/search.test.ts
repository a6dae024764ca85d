import { describe, expect, it } from 'vitest';

import { find, fit } from './search';

const PROJECTS = ['design-system', 'infra', 'payments-with-all-regions-in-france', 'my-app', 'api-gateway', 'mobile-app', '数据分析平台'];
const found = (search: string) => find(search, PROJECTS, (name) => [name, '/home/me/projects'] as const);

describe('find', () => {
  it('puts the name that was typed in full before a longer one that holds its letters', () => {
    expect(found('infra')).toEqual(['infra', 'payments-with-all-regions-in-france']);
  });

  it.each([
    ['pay', ['payments-with-all-regions-in-france', 'api-gateway']],
    ['app', ['my-app', 'mobile-app']],
    ['ag', ['api-gateway']],
    ['MY APP', ['my-app']],
    ['数据', ['数据分析平台']],
    ['zzz', []],
  ])('finds by “%s”', (search, names) => {
    expect(found(search)).toEqual(names);
  });

  it('keeps the order of equals, and all without a search', () => {
    expect(found('  ')).toEqual(PROJECTS);
    expect(found('projects')).toEqual(PROJECTS);
  });
});

describe('fit', () => {
  it('wants every word to fit, in the name or in the detail', () => {
    expect(fit('app opencode', 'my-app', 'opencode · slot 2')).toBeGreaterThan(0);
    expect(fit('app copilot', 'my-app', 'opencode · slot 2')).toBe(0);
  });
});
