/** Keyboard shortcuts: what they are, how they are shown, when they apply. */

export const isMac = navigator.platform.startsWith('Mac');

export const shown = {
  palette: isMac ? '⌘K' : 'Ctrl K',
  switch: isMac ? '⌥1–9' : 'Alt 1–9',
  next: isMac ? '⌥J' : 'Alt J',
  search: isMac ? '⌘F' : 'Ctrl Shift F',
  copy: isMac ? '⌘C' : 'Ctrl Shift C',
  paste: isMac ? '⌘V' : 'Ctrl Shift V',
  send: isMac ? '⌘Enter' : 'Ctrl Enter',
  save: isMac ? '⌘S' : 'Ctrl S',
  leave: isMac ? '⌘↑' : 'Ctrl Shift ↑',
  prompt: isMac ? '⌘↓' : 'Ctrl Shift ↓',
  ends: isMac ? '⌘Home' : 'Ctrl Shift Home',
};

/**
 * Keys that can open the palette in a terminal. Ctrl+K belongs to readline there: it cuts the rest of the line. On a Mac
 * Cmd+K opens the palette everywhere.
 */
export const TERMINAL_PALETTE_KEYS = ['Alt 0', 'Ctrl Shift K', 'Ctrl K', 'none'] as const;
export type TerminalPaletteKey = (typeof TERMINAL_PALETTE_KEYS)[number];

/** The modifiers that are down, in a fixed order. */
function modifiers(event: KeyboardEvent): string {
  const { ctrlKey, altKey, shiftKey, metaKey } = event;
  return [ctrlKey && 'Ctrl', altKey && 'Alt', shiftKey && 'Shift', metaKey && 'Meta'].filter(Boolean).join(' ');
}

/** The palette key: outside of a terminal Cmd+K or Ctrl+K too, in one the key that was chosen for there. */
export function isPaletteKey(event: KeyboardEvent, chosen: TerminalPaletteKey, inTerminal: boolean): boolean {
  const chord = `${modifiers(event)} ${event.code.replace(/^(Key|Digit)/, '')}`;
  if (isMac ? chord === 'Meta K' : chord === 'Ctrl K' && !inTerminal) return true;
  return chord === chosen;
}

/** The digit of Alt+1..9, by the key's place, since Alt changes what many layouts type. Null for any other key. */
export function sessionSwitch(event: KeyboardEvent): number | null {
  if (!event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return null;
  const digit = /^Digit([1-9])$/.exec(event.code)?.[1];
  return digit === undefined ? null : Number(digit);
}

/** Alt+J, by the key's place: no layout writes a letter of a language with it, and no shell edits with it. */
export function isJump(event: KeyboardEvent): boolean {
  return event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.code === 'KeyJ';
}

/** Whether a key sends what is written in a field of several lines. */
export function isSendKey(event: KeyboardEvent): boolean {
  return event.key === 'Enter' && (isMac ? event.metaKey : event.ctrlKey) && !event.isComposing;
}

/** Whether the event belongs to a field that takes text, so that single letters are not shortcuts. */
export function isTyping(event: KeyboardEvent): boolean {
  const target = event.target;
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}
