/** How the files of the page hang together: layers from the bottom up, and no circle. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

import { describe, expect, it } from 'vitest';

const SOURCE = join(import.meta.dirname, '..');

/** Each layer imports from itself and from those before it. App.svelte and main.ts stand above all. */
const LAYERS = ['styles', 'lib', 'state', 'ui', 'places'];

const files = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' }).filter(
  (name) => /\.(ts|svelte)$/.test(name) && !/\.test\.|^test\//.test(name),
);

/** The other files that one imports, by `from`, by `import()` and for a type alone: a component may draw itself again. */
function importsOf(name: string): string[] {
  const text = readFileSync(join(SOURCE, name), 'utf8');
  const found = [...text.matchAll(/(?:from |import |import\()'(\.[^']+)'/g)].map(([, address = '']) => address);
  return found.flatMap((address) => {
    const path = normalize(join(dirname(name), address));
    return [path, `${path}.ts`].filter((one) => one !== name && files.includes(one));
  });
}

const graph = new Map(files.map((name) => [name, importsOf(name)]));

/** The first circle found, as the names along it; empty if there is none. */
function circle(links: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const walk = (name: string, path: readonly string[]): string[] => {
    if (path.includes(name)) return [...path.slice(path.indexOf(name)), name];
    if (done.has(name)) return [];
    for (const next of links.get(name) ?? []) {
      const found = walk(next, [...path, name]);
      if (found.length > 0) return found;
    }
    done.add(name);
    return [];
  };
  for (const name of links.keys()) {
    const found = walk(name, []);
    if (found.length > 0) return found;
  }
  return [];
}

const layer = (name: string): number => LAYERS.indexOf(name.split('/')[0] ?? '');

describe('imports', () => {
  it('finds a circle in a graph that has one', () => {
    const links = new Map([
      ['a', ['b']],
      ['b', ['c', 'd']],
      ['c', []],
      ['d', ['b']],
    ]);
    expect(circle(links)).toEqual(['b', 'd', 'b']);
  });

  it('reads every kind of import', () => {
    expect(graph.get('App.svelte')).toEqual(
      expect.arrayContaining(['state/ui.svelte.ts', 'ui/Toasts.svelte', 'places/history/History.svelte']),
    );
  });

  it('form no circle', () => {
    expect(circle(graph)).toEqual([]);
  });

  it('go down only', () => {
    const upward = [...graph].flatMap(([name, imports]) =>
      layer(name) < 0 ? [] : imports.filter((other) => layer(other) > layer(name)).map((other) => `${name} -> ${other}`),
    );
    expect(upward).toEqual([]);
  });
});
