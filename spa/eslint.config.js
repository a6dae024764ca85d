import js from '@eslint/js';
import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import ts from 'typescript-eslint';

import { sharedParser } from './eslint.program.js';
import svelteConfig from './svelte.config.js';

export default ts.config(
  { ignores: ['node_modules/', '../spa_dist/', 'src/lib/wire.ts'] },
  js.configs.recommended,
  ...ts.configs.strictTypeChecked,
  { languageOptions: { parser: sharedParser } },
  ...svelte.configs.recommended,
  {
    languageOptions: {
      globals: globals.browser,
      parserOptions: {
        projectService: { allowDefaultProject: ['*.js', 'scripts/*.mjs', 'src/start.js', 'public/*.js'] },
        extraFileExtensions: ['.svelte'],
        tsconfigRootDir: import.meta.dirname,
      },
    },
    rules: {
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: false }],
      'no-restricted-globals': ['error', { name: 'fetch', message: 'Only lib/api.ts talks to the server.' }],
      // Collections here are replaced whole ($state.raw), and `void` marks what an effect depends on.
      'svelte/prefer-svelte-reactivity': 'off',
      '@typescript-eslint/no-meaningless-void-operator': 'off',
      // Links are real paths that the router intercepts; there is no SvelteKit here to resolve them.
      'svelte/no-navigation-without-resolve': 'off',
    },
  },
  {
    files: ['**/*.svelte', '**/*.svelte.ts'],
    languageOptions: { parserOptions: { parser: sharedParser, svelteConfig } },
  },
  { files: ['src/lib/api.ts'], rules: { 'no-restricted-globals': 'off' } },
  { files: ['scripts/*.mjs', '*.js'], languageOptions: { globals: globals.node }, extends: [ts.configs.disableTypeChecked] },
  { files: ['public/*.js'], languageOptions: { globals: globals.serviceworker }, extends: [ts.configs.disableTypeChecked], rules: { 'no-restricted-globals': 'off' } },
  { files: ['src/start.js'], languageOptions: { globals: globals.browser }, extends: [ts.configs.disableTypeChecked], rules: { 'no-restricted-globals': 'off' } },
);
