/** Prints what a first load of a session's page costs over the wire, and what comes later. */
import { readdirSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const dist = new URL('../../spa_dist/', import.meta.url);
const BUDGET = 150_000;

const gzip = (name) => gzipSync(readFileSync(new URL(name, dist)), { level: 9 }).length;
const text = (name) => readFileSync(new URL(name, dist), 'utf8');

/** A script and everything that it imports statically. */
function withImports(name, seen = new Set()) {
  if (seen.has(name)) return seen;
  seen.add(name);
  for (const [, other] of text(name).matchAll(/(?:from|import)\s*["']\.\/([^"']+\.js)["']/g)) withImports(`assets/${other}`, seen);
  return seen;
}

const assets = readdirSync(new URL('assets/', dist)).map((name) => `assets/${name}`);
const chunk = (name) => assets.filter((asset) => asset.startsWith(`assets/${name}-`));
const page = [...text('index.html').matchAll(/(?:src|href)="\/(assets\/[^"]+)"/g)].map(([, name]) => name);

const first = new Set(['index.html']);
for (const name of [...page, ...chunk('terminal')])
  for (const one of name.endsWith('.js') ? withImports(name) : [name]) first.add(one);

const rows = [...first].map((name) => [gzip(name), name]).sort((a, b) => b[0] - a[0]);
const total = rows.reduce((sum, [size]) => sum + size, 0);
const later = assets.filter((name) => !first.has(name)).map((name) => [gzip(name), name]).sort((a, b) => b[0] - a[0]);

const line = ([size, name]) => `${String(size).padStart(8)}  ${name}`;
console.log(`First load of a session's page, bytes with gzip\n${rows.map(line).join('\n')}\n${line([total, `in all, of ${BUDGET}`])}\n`);
console.log(`Fetched when wanted\n${later.slice(0, 12).map(line).join('\n')}\n          and ${Math.max(0, later.length - 12)} smaller ones`);
if (total > BUDGET) {
  console.error('over the budget');
  process.exit(1);
}
