import { readFileSync } from 'node:fs';

import svelte from 'eslint-plugin-svelte';
import typescript from 'typescript';
import { parser } from 'typescript-eslint';

const ROOT = import.meta.dirname;
const RUNES = /\/src\/.*\.svelte(\.ts)?$/;

const svelteParser = svelte.configs.base.flatMap(({ languageOptions }) => languageOptions?.parser ?? [])[0];

/** The TypeScript that the parser of Svelte makes of a file with runes: it hands that to its own parser last. */
function virtualText(filePath, parserOptions) {
  let text;
  const recorder = {
    ...parser,
    parseForESLint(code, options) {
      text = code;
      if (options.disallowAutomaticSingleRunInference) throw new Error('the text is all that is wanted');
      return parser.parseForESLint(code, options);
    },
  };
  try {
    svelteParser.parseForESLint(readFileSync(filePath, 'utf8'), {
      ...parserOptions,
      // Those of a component, which may be the first file, have it set already.
      disallowAutomaticSingleRunInference: false,
      filePath,
      parser: recorder,
      projectService: false,
    });
  } catch {
    // Of a file that cannot be parsed ESLint says so itself.
  }
  return text;
}

/** One program of all that tsconfig.json includes, with the components. */
function wholeProgram(parserOptions) {
  const { config } = typescript.readConfigFile(`${ROOT}/tsconfig.json`, typescript.sys.readFile);
  const component = { extension: '.svelte', isMixedContent: true, scriptKind: typescript.ScriptKind.Deferred };
  const parsed = typescript.parseJsonConfigFileContent(config, typescript.sys, ROOT, {}, undefined, undefined, [component]);
  const options = { ...parsed.options, allowNonTsExtensions: true };
  const host = typescript.createCompilerHost(options, true);
  const getSourceFile = host.getSourceFile.bind(host);
  host.getSourceFile = (name, target, ...others) => {
    const text = RUNES.test(name) ? virtualText(name, parserOptions) : undefined;
    return text === undefined
      ? getSourceFile(name, target, ...others)
      : typescript.createSourceFile(name, text, target, true, typescript.ScriptKind.TS);
  };
  return typescript.createProgram(parsed.fileNames, options, host);
}

// An editor asks for one file again and again while others change: only a run over everything can share a program.
const isRun = /[\\/]eslint(\.js)?$/.test(process.argv[1] ?? '') && !process.argv.includes('--fix');
let program;

/**
 * The parser of typescript-eslint, with one program for all files. Its project service makes a new program and a new
 * checker for each component, whose text differs from that of the file on disk: more than half of the time went there.
 * A text that the program does not have still goes to the service.
 */
export const sharedParser = {
  ...parser,
  parseForESLint(code, options) {
    if (!isRun || !options.projectService || !options.filePath) return parser.parseForESLint(code, options);
    program ??= wholeProgram(options);
    const known = program.getSourceFile(options.filePath)?.text === code;
    return parser.parseForESLint(code, known ? { ...options, projectService: false, programs: [program] } : options);
  },
};
