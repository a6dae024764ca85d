/** Comments between the lines of an editor, each a component of the page. */
import { type Extension, RangeSetBuilder, StateEffect, StateField } from '@codemirror/state';
import { Decoration, type DecorationSet, EditorView, WidgetType } from '@codemirror/view';

/** What stands below a line. */
export interface Between {
  /** The same as long as it is the same part of the page. */
  key: string;
  line: number;
  /** Draws it into the element and returns what takes it away. */
  draw: (element: HTMLElement) => () => void;
}

const set = StateEffect.define<readonly Between[]>();

class BetweenWidget extends WidgetType {
  constructor(readonly part: Between) {
    super();
  }

  override eq(other: BetweenWidget): boolean {
    return other.part.key === this.part.key;
  }

  override toDOM(view: EditorView): HTMLElement {
    const element = document.createElement('div');
    element.className = 'cm-between';
    const remove = this.part.draw(element);
    // Its height changes as one writes; the lines below must follow.
    const observer = new ResizeObserver(() => view.requestMeasure());
    observer.observe(element);
    removals.set(element, () => {
      observer.disconnect();
      remove();
    });
    return element;
  }

  override destroy(element: HTMLElement): void {
    removals.get(element)?.();
    removals.delete(element);
  }

  override get estimatedHeight(): number {
    return 96;
  }

  /** Its keys and clicks are its own. */
  override ignoreEvent(): boolean {
    return true;
  }
}

const removals = new Map<HTMLElement, () => void>();

const field = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(parts, transaction) {
    for (const effect of transaction.effects) {
      if (!effect.is(set)) continue;
      const builder = new RangeSetBuilder<Decoration>();
      const { doc } = transaction.state;
      for (const part of [...effect.value].sort((a, b) => a.line - b.line)) {
        const { to } = doc.line(Math.min(Math.max(1, part.line), doc.lines));
        builder.add(to, to, Decoration.widget({ widget: new BetweenWidget(part), block: true, side: 1 }));
      }
      return builder.finish();
    }
    return parts.map(transaction.changes);
  },
  provide: (own) => EditorView.decorations.from(own),
});

export const between: Extension = field;

export function showBetween(view: EditorView, parts: readonly Between[]): void {
  view.dispatch({ effects: set.of(parts) });
}
