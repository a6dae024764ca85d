import { svelte } from '@sveltejs/vite-plugin-svelte';
import { readFileSync } from 'node:fs';
import { minifySync, type Rolldown } from 'vite';
import { defineConfig, type Plugin } from 'vitest/config';

import { plainIcons } from './scripts/icons.mjs';
import { shortFields } from './scripts/xterm.mjs';

/** What the list of sessions needs beside the page's script. */
const LIST_PARTS = /places\/home\//;
/** What no first look waits for, but for the list, and each page fetches then: one request, and one dictionary for gzip. */
const LATER_PARTS = /agent\/Options|frame\/Standby|places\/composer\/|terminal\/(AttachButtons|UploadList|KeyBar)|ui\/Splitter|lib\/viewport/;

const read = (path: string): string => readFileSync(new URL(path, import.meta.url), 'utf8');

/** What each place needs beside the page's script: a pattern of its address, and the module that it fetches. */
const PLACES = { '^/$': 'places/home/Home.svelte', '^/sessions/[^/]+(/shell)?$': 'places/terminal/terminal.ts' };

type Bundle = Rolldown.OutputBundle;

/** The addresses of a module's chunk and of those that it imports. */
function scriptsOf(module: string, bundle: Bundle): string[] {
  const chunks = Object.values(bundle).filter((one) => one.type === 'chunk');
  const chunk = chunks.find(({ moduleIds }) => moduleIds.some((id) => id.endsWith(module)));
  if (!chunk) throw new Error(`no chunk has ${module}`);
  return [chunk.fileName, ...chunk.imports].map((name) => `/${name}`);
}

/**
 * Puts src/start.js in front of everything as a blocking script with a hashed name: the server's CSP forbids inline
 * scripts, and a module would run after the first paint, so that a chosen theme would flash. The styles and the icon are
 * written into the page: each saves a request, and none can be lost on the way.
 */
function completePage(): Plugin {
  return {
    name: 'clincus-complete-page',
    apply: 'build',
    generateBundle: {
      order: 'post',
      handler(_options, bundle) {
        const page = bundle['index.html'];
        const [style, ...others] = Object.values(bundle).filter(({ fileName }) => fileName.endsWith('.css'));
        if (page?.type !== 'asset' || style?.type !== 'asset' || others.length) throw new Error('no page with one style sheet');
        const [script = '', entry = ''] = /<script type="module"[^>]* src="\/([^"]+)"><\/script>/.exec(String(page.source)) ?? [];
        if (!entry) throw new Error('the page has no script');
        const places = Object.entries(PLACES).map(([pattern, module]) => [pattern, ...scriptsOf(module, bundle).filter((name) => name !== `/${entry}`)]);
        const filled = read('src/start.js')
          .replace('PLACES = []', `PLACES = ${JSON.stringify(places)}`)
          .replace("PAGE = ''", `PAGE = '/${entry}'`);
        const source = minifySync('start.js', filled).code;
        const start = this.emitFile({ type: 'asset', name: 'start.js', source });
        Reflect.deleteProperty(bundle, style.fileName);
        page.source = String(page.source)
          .replace('<!-- start -->', () => `<script src="/${this.getFileName(start)}"></script>`)
          .replace(script, `<link rel="modulepreload" href="/${entry}">`)
          .replace(/<link rel="stylesheet"[^>]*>/, () => `<style>${String(style.source).trim()}</style>`)
          .replace('"/icon.svg"', () => `"data:image/svg+xml,${encodeURIComponent(read('public/icon.svg'))}"`);
      },
    },
  };
}

const RUNTIME = '\0rolldown/runtime.js';

/**
 * Writes the bundler's own helper, 150 bytes that make a module's namespace, into the chunks that use it: as a chunk it would
 * be one more request of the first look. The bundler lets no group have it.
 */
function inlineRuntime(): Plugin {
  return {
    name: 'clincus-inline-runtime',
    apply: 'build',
    renderChunk(code, _chunk, _options, { chunks }) {
      const helper = Object.values(chunks).find(({ moduleIds }) => moduleIds.includes(RUNTIME))?.modules[RUNTIME]?.code;
      return helper ? code.replace(/import \{ t as __exportAll \} from "\.\/rolldown-runtime-[^"]+";/, () => helper) : null;
    },
    generateBundle(_options, bundle) {
      for (const chunk of Object.values(bundle)) {
        if (chunk.type !== 'chunk') continue;
        if (chunk.moduleIds.includes(RUNTIME)) Reflect.deleteProperty(bundle, chunk.fileName);
        else chunk.imports = chunk.imports.filter((name) => !name.includes('rolldown-runtime'));
        if (chunk.code.includes('from"./rolldown-runtime')) throw new Error(`${chunk.fileName} imports the bundler's helper`);
      }
    },
  };
}

const TESTS = ['src/**/*.test.ts', 'src/**/*.test.svelte.ts'];
/** They listen at the window, change a prototype, load a module anew, or need a router that has been nowhere. */
const ALONE = ['src/lib/keep-focus.test.ts', 'src/lib/steady.test.svelte.ts', 'src/state/preferences.test.ts', 'src/ui/Page.test.ts'];

export default defineConfig({
  plugins: [plainIcons(), shortFields(), svelte(), inlineRuntime(), completePage()],
  resolve: process.env['VITEST'] ? { conditions: ['browser'] } : {},
  build: {
    outDir: '../spa_dist',
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    assetsInlineLimit: 0,
    // The styles of all that the first look needs; those of a later part come in its script (svelte.config.js).
    cssCodeSplit: false,
    // All that the first look needs is one file: one request, and one dictionary for gzip.
    rolldownOptions: {
      output: {
        codeSplitting: {
          groups: [
            { name: 'index', tags: ['$initial'] },
            { name: 'terminal', test: /terminal\/(terminal|match-colours)\.ts$/ },
            { name: 'later', test: LATER_PARTS },
            { name: 'Home', test: LIST_PARTS },
          ],
        },
      },
    },
  },
  server: { proxy: { '/api': 'http://127.0.0.1:3000', '/ws': { target: 'ws://127.0.0.1:3000', ws: true } } },
  test: {
    environment: 'node',
    setupFiles: 'src/test/setup.ts',
    testTimeout: 20_000,
    pool: 'threads',
    projects: [
      // A fresh environment for each of the forty files takes half a minute of a core.
      { extends: true, test: { name: 'together', isolate: false, include: TESTS, exclude: ALONE } },
      { extends: true, test: { name: 'alone', include: ALONE } },
    ],
  },
});
