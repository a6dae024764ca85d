/** The prompts that were sent before, by the arrow keys, as a shell has its lines. */
import type { Prompt } from './types';

/** The texts that were sent or wait, the newest first, each once. */
export function sentTexts(prompts: readonly Prompt[]): string[] {
  return [...new Set(prompts.map(({ text }) => text).reverse())];
}

/**
 * The text that an arrow leads to, from the one that stands in the field; null where the arrow only moves the cursor. Only
 * an empty field, or one that holds a text of the past, is replaced: nothing that was typed is lost.
 */
export function walk(past: readonly string[], current: string, key: string): string | null {
  const at = past.indexOf(current);
  if (current !== '' && at < 0) return null;
  if (key === 'ArrowUp') return past[at + 1] ?? null;
  if (key === 'ArrowDown' && at >= 0) return past[at - 1] ?? '';
  return null;
}

/** Whether the cursor is where an arrow would leave the text: in its first or last line. */
export function isAtEdge({ value, selectionStart, selectionEnd }: HTMLTextAreaElement, key: string): boolean {
  if (selectionStart !== selectionEnd) return false;
  const beyond = key === 'ArrowUp' ? value.slice(0, selectionStart) : value.slice(selectionEnd);
  return !beyond.includes('\n');
}
