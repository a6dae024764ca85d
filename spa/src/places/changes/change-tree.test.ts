import { describe, expect, it } from 'vitest';

import type { ChangedFile } from '../../lib/types';
import { someChange } from '../../test/fakes';
import { changeRows } from './change-tree';

const files = (...paths: string[]): ChangedFile[] => paths.map((path) => someChange({ path }));

const drawn = (rows: ReturnType<typeof changeRows>): string[] =>
  rows.map(({ name, depth, file, files: count }) => `${'  '.repeat(depth)}${name}${file ? '' : `/ ${count}`}`);

describe('changeRows', () => {
  it('puts folders first, in the order of a person', () => {
    const rows = changeRows(files('b.ts', 'a10.ts', 'a2.ts', 'src/x.ts', 'docs/y.md'), new Set());
    expect(drawn(rows)).toEqual(['docs/ 1', '  y.md', 'src/ 1', '  x.ts', 'a2.ts', 'a10.ts', 'b.ts']);
  });

  it('joins folders that hold one folder only', () => {
    const rows = changeRows(files('a/b/c/one.ts', 'a/b/c/two.ts', 'a/b/c/d/e/three.ts'), new Set());
    expect(drawn(rows)).toEqual(['a/b/c/ 3', '  d/e/ 1', '    three.ts', '  one.ts', '  two.ts']);
  });

  it('hides what is in a folded folder', () => {
    const rows = changeRows(files('src/x.ts', 'src/y.ts', 'z.ts'), new Set(['src/']));
    expect(drawn(rows)).toEqual(['src/ 2', 'z.ts']);
  });

  it('keeps a file apart from a folder of its name', () => {
    const keys = changeRows(files('a', 'a/b'), new Set()).map(({ key }) => key);
    expect(keys).toEqual(['a/', 'a/b', 'a']);
  });
});
