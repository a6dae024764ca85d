/** Line numbers that begin a comment: a click for a line, a drag or a selection for a range. */
import { EditorSelection, type Extension } from '@codemirror/state';
import { type EditorView, lineNumbers } from '@codemirror/view';

function lineAt(view: EditorView, y: number): number {
  const { top } = view.contentDOM.getBoundingClientRect();
  return view.state.doc.lineAt(view.lineBlockAtHeight(y - top - view.documentPadding.top).from).number;
}

function select(view: EditorView, a: number, b: number): void {
  const { doc } = view.state;
  const range = EditorSelection.range(doc.line(Math.min(a, b)).from, doc.line(Math.max(a, b)).to);
  view.dispatch({ selection: EditorSelection.create([range]) });
}

/** The lines that are selected, if more than one and this one among them. */
function chosen(view: EditorView, line: number): [number, number] | null {
  const { from, to } = view.state.selection.main;
  const [first, last] = [view.state.doc.lineAt(from).number, view.state.doc.lineAt(to).number];
  return first < last && first <= line && line <= last ? [first, last] : null;
}

function press(view: EditorView, line: number, onLines: (from: number, to: number) => void): void {
  const range = chosen(view, line);
  let head = line;
  const move = (event: MouseEvent): void => {
    head = lineAt(view, event.clientY);
    if (head !== line) select(view, line, head);
  };
  const release = (): void => {
    window.removeEventListener('mousemove', move);
    if (head !== line) onLines(Math.min(line, head), Math.max(line, head));
    else onLines(...(range ?? [line, line]));
  };
  window.addEventListener('mousemove', move);
  window.addEventListener('mouseup', release, { once: true });
}

export function lineButtons(onLines: (from: number, to: number) => void): Extension {
  return lineNumbers({
    domEventHandlers: {
      mousedown: (view, block, event) => {
        if (!(event instanceof MouseEvent) || event.button !== 0) return false;
        event.preventDefault();
        press(view, view.state.doc.lineAt(block.from).number, onLines);
        return true;
      },
    },
  });
}
