/**
 * Shortens the names of the fields of xterm.js and its add-ons, which they ship in full: that takes 4 KB off the first look,
 * after compression. A name is changed in the same way in all of their files, so that the program stays the same.
 */
import { readdirSync, readFileSync } from 'node:fs';

const LIBRARY = /@xterm\/[\w-]+\/lib\/[\w-]+\.mjs$/;
const PACKAGES = new URL('../node_modules/@xterm/', import.meta.url);
/** A field by its underscore, and no part of another word. Shorter names gain nothing. */
const FIELD = /(?<![\w$])_[a-zA-Z]\w{2,}/g;
/** Names of the browser, for `window.open`. */
const FOREIGN = ['_blank', '_self', '_parent', '_top'];

/** Short names for all fields in these texts; the most frequent fields get the shortest ones. */
export function shortNames(texts) {
  const counts = new Map();
  for (const name of texts.flatMap((text) => text.match(FIELD) ?? [])) counts.set(name, (counts.get(name) ?? 0) + 1);
  for (const name of FOREIGN) counts.delete(name);
  const taken = new Set(texts.flatMap((text) => text.match(/(?<![\w$])_\w+/g) ?? []));
  const short = new Map();
  let last = 0;
  for (const [name] of [...counts].sort(([, a], [, b]) => b - a)) {
    while (taken.has(`_${last.toString(36)}`)) last += 1;
    short.set(name, `_${last.toString(36)}`);
    last += 1;
  }
  return short;
}

/** @returns {import('vite').Plugin} */
export function shortFields() {
  const texts = readdirSync(PACKAGES).map((name) => readFileSync(new URL(`${name}/lib/${name}.mjs`, PACKAGES), 'utf8'));
  const short = shortNames(texts);
  return {
    name: 'clincus-short-fields',
    apply: 'build',
    transform: {
      filter: { id: LIBRARY },
      handler: (source) => ({ code: source.replace(FIELD, (name) => short.get(name) ?? name), map: null }),
    },
  };
}
