/**
 * Shortens the names of the fields and methods of xterm.js and its add-ons, which they ship in full: that takes 8 KB off the
 * first look, after compression. A name is changed in the same way in all of their files, so that the program stays the
 * same. Only a name that these files give to something of their own is changed, and none that stands for anything else: in
 * the browser, in our sources, or in a string, by which a program could look it up.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { parseAst } from 'vite';

const LIBRARY = /@xterm\/[\w-]+\/lib\/[\w-]+\.mjs$/;
const PACKAGES = new URL('../node_modules/@xterm/', import.meta.url);
const BROWSER = new URL('../node_modules/typescript/lib/', import.meta.url);
const SOURCES = new URL('../src/', import.meta.url);
const WORD = /[\w$]+/g;
/** Shorter names gain nothing. */
const LEAST_LENGTH = 4;
const MEMBERS = new Set(['MethodDefinition', 'PropertyDefinition', 'Property']);

/** Calls with each node of a syntax tree, parents first. */
function walk(node, visit) {
  visit(node);
  for (const child of Object.values(node).flat()) if (typeof child?.type === 'string') walk(child, visit);
}

/**
 * The names of fields in a program: where each stands, those that it gives to something of its own, and all words of its
 * strings.
 */
export function fieldsOf(program) {
  const places = [];
  const own = new Set();
  const said = new Set();
  const say = (text) => text.match(WORD)?.forEach((word) => said.add(word));
  walk(parseAst(program), (node) => {
    if (node.type === 'Literal' && typeof node.value === 'string') say(node.value);
    else if (node.type === 'TemplateElement') say(node.value.raw);
    else if (node.type === 'MemberExpression' && !node.computed && node.property.type === 'Identifier') places.push(node.property);
    else if (MEMBERS.has(node.type) && !node.computed && node.key.type === 'Identifier') {
      if (node.shorthand) said.add(node.key.name);
      else places.push(node.key);
      own.add(node.key.name);
    } else if (node.type === 'AssignmentExpression' && node.left.object?.type === 'ThisExpression' && !node.left.computed)
      own.add(node.left.property.name);
  });
  return { places, own, said };
}

/** Short names for the fields of these programs, but for the words in `foreign`; the most frequent ones get the shortest. */
export function shortNames(programs, foreign) {
  const found = programs.map(fieldsOf);
  const own = new Set(found.flatMap((one) => [...one.own]));
  const said = new Set(found.flatMap((one) => [...one.said]));
  const counts = new Map();
  for (const { name } of found.flatMap(({ places }) => places)) counts.set(name, (counts.get(name) ?? 0) + 1);
  const isOurs = (name) => name.length >= LEAST_LENGTH && own.has(name) && !said.has(name) && !foreign.has(name);
  const taken = new Set([...counts.keys(), ...said]);
  const short = new Map();
  let last = 0;
  for (const [name] of [...counts].filter(([one]) => isOurs(one)).sort(([, a], [, b]) => b - a)) {
    while (taken.has(`_${last.toString(36)}`)) last += 1;
    short.set(name, `_${last.toString(36)}`);
    last += 1;
  }
  return short;
}

/** A program with other names for its fields. */
export function renamed(program, short) {
  let text = '';
  let at = 0;
  for (const { name, start, end } of fieldsOf(program).places.sort((a, b) => a.start - b.start)) {
    text += program.slice(at, start) + (short.get(name) ?? program.slice(start, end));
    at = end;
  }
  return text + program.slice(at);
}

const read = (folder, pattern) =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => pattern.test(name))
    .map((name) => readFileSync(new URL(name, folder), 'utf8'));

/** @returns {import('vite').Plugin} */
export function shortFields() {
  let short = new Map();
  return {
    name: 'clincus-short-fields',
    apply: 'build',
    buildStart: () => {
      const words = [...read(BROWSER, /^lib\..*\.d\.ts$/), ...read(SOURCES, /(?<!\.test)\.(ts|svelte)$/)].flatMap((text) => text.match(WORD));
      const programs = readdirSync(PACKAGES).map((name) => readFileSync(new URL(`${name}/lib/${name}.mjs`, PACKAGES), 'utf8'));
      short = shortNames(programs, new Set(words));
    },
    transform: { filter: { id: LIBRARY }, handler: (source) => ({ code: renamed(source, short), map: null }) },
  };
}
