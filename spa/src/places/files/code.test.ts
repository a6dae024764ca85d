import { ensureSyntaxTree, LanguageSupport } from '@codemirror/language';
import { EditorState } from '@codemirror/state';
import { highlightTree } from '@lezer/highlight';
import { expect, it } from 'vitest';

import { highlight, languageOf } from './code';

/** The pieces of a text that its language colours. */
async function coloured(path: string, text: string): Promise<string[]> {
  const extension = await languageOf(path)?.();
  if (!(extension instanceof LanguageSupport)) throw new Error(`${path} has no language`);
  const tree = ensureSyntaxTree(EditorState.create({ doc: text, extensions: [extension] }), text.length, 5000);
  const found: string[] = [];
  if (tree) highlightTree(tree, highlight, (from, to) => found.push(text.slice(from, to)));
  return found;
}

it.each([
  ['main.c', 'return "text"; // why', ['return', '"text"', '// why']],
  ['main.h', 'namespace a { const int b = 7; } // why', ['namespace', 'const', '7', '// why']],
  ['main.cpp', 'template <class T> T a = "text"; /* why */', ['template', '"text"', '/* why */']],
  ['Main.java', 'public final class Main { int a = 7; } // why', ['public', 'class', '7', '// why']],
  ['Main.kt', 'fun main() { val a = "text" } // why', ['fun', 'val', '"text"', '// why']],
  ['Main.cs', 'namespace A; public class B { } // why', ['namespace', 'public', '// why']],
  ['main.rs', 'pub fn main() { let a = "text"; } // why', ['pub', 'fn', 'let', '// why']],
  ['main.go', 'package main; func main() { return } // why', ['package', 'func', 'return', '// why']],
  ['main.py', 'def main(): return "text" # why', ['def', 'return', '"text"', '# why']],
  ['Dockerfile', 'FROM debian', ['FROM']],
])('%s has the colours of its language', async (path, text, expected) => {
  expect(await coloured(path, text)).toEqual(expect.arrayContaining(expected));
});

it('has no language for a file without a known ending', () => {
  expect(languageOf('notes.txt')).toBeUndefined();
});
