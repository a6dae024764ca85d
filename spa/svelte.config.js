import { vitePreprocess } from '@sveltejs/vite-plugin-svelte';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const SOURCE = fileURLToPath(new URL('src/', import.meta.url));

/** A file of src/ and all that it imports, but for what it fetches later by `import()`. */
function withImports(path, seen = new Set()) {
  if (seen.has(path)) return seen;
  seen.add(path);
  for (const [, address] of readFileSync(path, 'utf8').matchAll(/from '(\.[^']+)'/g)) {
    const other = resolve(dirname(path), address);
    const found = [other, `${other}.ts`].find((one) => /\.(ts|svelte)$/.test(one) && existsSync(one));
    if (found) withImports(found, seen);
  }
  return seen;
}

const first = withImports(resolve(SOURCE, 'main.ts'));

export default {
  preprocess: vitePreprocess(),
  compilerOptions: { runes: true },
  vitePlugin: {
    // A part that comes later brings its styles in its script: the first look does not wait for them, and they are not
    // lost on the way without it.
    dynamicCompileOptions: ({ filename }) =>
      filename.startsWith(SOURCE) && !first.has(filename) ? { css: 'injected' } : undefined,
  },
};
