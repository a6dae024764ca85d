import { svelte } from '@sveltejs/vite-plugin-svelte';
import { readFileSync } from 'node:fs';
import { defineConfig, type Plugin } from 'vitest/config';

/**
 * Puts src/theme.js in front of everything as a blocking script with a hashed name: the server's CSP forbids inline
 * scripts, and a module would run after the first paint, so that a chosen theme would flash.
 */
function themeBeforePaint(): Plugin {
  let reference = '';
  return {
    name: 'clincus-theme-before-paint',
    apply: 'build',
    buildStart() {
      const source = readFileSync(new URL('src/theme.js', import.meta.url), 'utf8');
      reference = this.emitFile({ type: 'asset', name: 'theme.js', source });
    },
    generateBundle: {
      order: 'post',
      handler(_options, bundle) {
        const page = bundle['index.html'];
        if (page?.type !== 'asset') throw new Error('index.html is missing from the bundle');
        const tag = `<script src="/${this.getFileName(reference)}"></script>`;
        page.source = String(page.source).replace('<!-- theme -->', tag);
      },
    },
  };
}

export default defineConfig({
  plugins: [svelte(), themeBeforePaint()],
  resolve: process.env['VITEST'] ? { conditions: ['browser'] } : {},
  build: {
    outDir: '../spa_dist',
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    assetsInlineLimit: 0,
    // One file, there from the start: a style sheet that is lost on its way is never asked for again.
    cssCodeSplit: false,
  },
  server: { proxy: { '/api': 'http://127.0.0.1:3000', '/ws': { target: 'ws://127.0.0.1:3000', ws: true } } },
  test: { environment: 'node', include: ['src/**/*.test.ts', 'src/**/*.test.svelte.ts'] },
});
