/** How a difference looks: the page's colours in place of those of @codemirror/merge. */
import type { Extension } from '@codemirror/state';
import { EditorView } from '@codemirror/view';

import { sheet } from '../files/code';

const colours = EditorView.theme({
  '&': { fontSize: 'var(--editor-size)' },
  '.cm-gutters': { paddingLeft: '0' },
  '.cm-lineNumbers .cm-gutterElement': { minWidth: '44px', padding: '0 8px 0 4px' },
  '.cm-line': { padding: '0 12px 0 6px' },
  '.cm-changeGutter': { width: '2px', padding: '0' },
  '&.cm-merge-a .cm-changedLine, .cm-deletedChunk, &.cm-whole-a .cm-line': { backgroundColor: 'var(--diff-old)' },
  '&.cm-merge-b .cm-changedLine, &.cm-whole-b .cm-line': { backgroundColor: 'var(--diff-new)' },
  '&.cm-merge-a .cm-changedText, .cm-deletedChunk .cm-deletedText': { background: 'var(--diff-old-text) !important', borderRadius: '2px' },
  '&.cm-merge-b .cm-changedText': { background: 'var(--diff-new-text) !important', borderRadius: '2px' },
  '&.cm-merge-a .cm-changedLineGutter, .cm-deletedLineGutter': { background: 'var(--danger) !important' },
  '&.cm-merge-b .cm-changedLineGutter': { background: 'var(--ok) !important' },
  '.cm-deletedChunk': { padding: '0' },
  // Within a chunk only: side by side, a line that was removed has it around its text, too.
  '.cm-deletedChunk .cm-deletedLine': { padding: '0 12px 0 6px', whiteSpace: 'break-spaces', overflowWrap: 'anywhere' },
  '.cm-mergeSpacer': {
    background: 'repeating-linear-gradient(-45deg, transparent 0 5px, var(--line) 5px 6px)',
    opacity: '0.55',
  },
  '.cm-collapsedLines': {
    padding: '3px 12px !important',
    color: 'var(--muted) !important',
    background: 'var(--bg) !important',
    borderBlock: '1px solid var(--line)',
    fontFamily: 'var(--sans)',
    fontSize: 'var(--fs-small)',
    textAlign: 'center',
  },
  '.cm-collapsedLines:hover': { color: 'var(--text) !important' },
  '.cm-collapsedLines:before, .cm-collapsedLines:after': { content: '"" !important' },
  '.cm-hunk-undo': {
    float: 'right',
    height: '18px',
    marginLeft: '8px',
    padding: '0 6px',
    border: '1px solid var(--line-strong)',
    borderRadius: '4px',
    background: 'var(--raised)',
    color: 'var(--muted)',
    font: '12px/16px var(--sans)',
    opacity: '0',
  },
  '.cm-hunk-undo::before': { content: '"Undo"' },
  '.cm-hunk-undo:focus-visible': { opacity: '1' },
  '.cm-hunk-undo:hover': { borderColor: 'var(--muted)', color: 'var(--text)' },
  '@media (pointer: coarse)': { '.cm-hunk-undo': { height: '28px', padding: '0 8px', opacity: '1' } },
  // The number of a line is the button that begins a comment.
  '&.cm-commentable .cm-lineNumbers .cm-gutterElement': { position: 'relative', cursor: 'pointer' },
  '&.cm-commentable .cm-lineNumbers .cm-gutterElement:hover': { color: 'var(--accent)', fontWeight: '600' },
  '&.cm-commentable .cm-lineNumbers .cm-gutterElement:hover::before': { content: '"+"', position: 'absolute', left: '4px' },
});

export const diffTheme: Extension = [sheet, colours];
