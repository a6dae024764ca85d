import type { DiffEditor } from './diff-editor';

/** The difference that is on the screen, for the keys. */
export interface Reading {
  editor: DiffEditor;
  /** Begins a comment on the lines that are selected. */
  comment: () => void;
}
