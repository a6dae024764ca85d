/** What the list of keyboard shortcuts shows. */
import { shown, type TerminalPaletteKey } from './keys';

export interface ShortcutGroup {
  title: string;
  keys: readonly (readonly [string, string])[];
}

export const shortcuts = (inTerminal: TerminalPaletteKey): readonly ShortcutGroup[] => [
  {
    title: 'Everywhere, the terminal too',
    keys: [
      ...(inTerminal === 'none' ? [] : [[inTerminal, 'Command palette'] as const]),
      [shown.switch, 'Go to the session with that number'],
      [shown.next, 'Jump to the next session that needs you'],
    ],
  },
  {
    title: 'Outside the terminal',
    keys: [
      [shown.palette, 'Command palette'],
      ['?', 'This list'],
      ['n', 'New session'],
      ['/', 'Search or filter what is shown'],
      ['g i', 'Inbox'],
      ['g p', 'Projects'],
      ['g a', 'All sessions'],
      ['g h', 'History'],
      ['g l', 'Logins'],
      ['g s', 'Settings'],
      ['[', 'Collapse or expand the sidebar'],
    ],
  },
  {
    title: 'In the terminal',
    keys: [
      [shown.search, 'Search'],
      [shown.copy, 'Copy the selection'],
      [shown.paste, 'Paste'],
      ['Shift PageUp', 'Scroll back a page'],
      [shown.ends, 'Scroll to the first line, with End to the last'],
      [shown.leave, 'Leave it, for the tabs above'],
      [shown.prompt, 'Go to the prompt box'],
      ['Shift + drag', 'Select although the program uses the mouse'],
    ],
  },
  {
    title: 'In the changes',
    keys: [
      ['j', 'Next change'],
      ['k', 'Previous change'],
      ['Shift J', 'Next file'],
      ['Shift K', 'Previous file'],
      ['v', 'Tick the file as viewed, and go to the next one'],
      ['x', 'Undo the change at the cursor'],
      ['c', 'Comment on the selected lines'],
      ['u', 'Side by side or in one column'],
      ['w', 'Hide or show changes of white space'],
    ],
  },
  {
    title: 'In the prompt box',
    keys: [
      [shown.send, 'Send'],
      ['Esc', 'Back to the terminal'],
      ['↑', 'The prompt before, in an empty box'],
      ['@', 'A file of the project'],
      ['/', 'A command of the agent'],
    ],
  },
  {
    title: 'In the editor',
    keys: [
      [shown.save, 'Save'],
      ['Esc Tab', 'Leave it; Tab alone indents'],
    ],
  },
];
