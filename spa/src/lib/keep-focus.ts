/** Where the keys go when what had them is gone. Without this they are the page's, and Tab begins at its top again. */
import { isGivenUp } from './focus';

const FOCUSABLE = 'a[href], button, input, select, textarea, summary, [tabindex="0"]';

const DIALOGS = '[role="dialog"], [role="alertdialog"], [role="menu"]';

const isShown = (element: HTMLElement): boolean => element.getClientRects().length > 0 && getComputedStyle(element).visibility !== 'hidden';

const focusables = (within: Element): HTMLElement[] => [...within.querySelectorAll<HTMLElement>(FOCUSABLE)].filter(isShown);

/** A focused element, and where it was: it may be back in another place by then, or something else in its own. */
class Place {
  readonly #row: Element | null;
  readonly #link: string;
  readonly #index: number;
  readonly #above: readonly { element: Element; index: number }[];

  constructor(readonly element: HTMLElement) {
    this.#row = element.closest('li, tr');
    this.#link = this.#row?.querySelector('a')?.getAttribute('href') ?? '';
    this.#index = this.#row ? focusables(this.#row).indexOf(element) : -1;
    const above = [];
    for (let at: Element = element; at.parentElement; at = at.parentElement)
      above.push({ element: at.parentElement, index: [...at.parentElement.children].indexOf(at) });
    this.#above = above;
  }

  /** The nearest element that is left: the same button of its row, else the one in its place, else one around it. */
  successor(): HTMLElement | undefined {
    const left = this.#above.filter(({ element }) => element.isConnected);
    const near = left.slice(0, 4).map(({ element }) => element);
    if (this.#link && !this.#row?.isConnected)
      for (const element of near) {
        const row = element.querySelector(`a[href="${CSS.escape(this.#link)}"]`)?.closest('li, tr');
        const again = row ? focusables(row) : [];
        if (again.length) return again[this.#index] ?? again[0];
      }
    for (const { element, index } of left) {
      const next = element.children[Math.min(index, element.children.length - 1)];
      const [first] = [...(next ? focusables(next) : []), ...focusables(element)];
      if (first) return first;
    }
    return undefined;
  }
}

/** From now on, when the focused element vanishes or is disabled, what comes nearest to it gets the focus. */
export function keepFocus(): void {
  let last: Place | null = null;
  const look = (): void => {
    if (!last || document.activeElement !== document.body || isGivenUp() || document.querySelector(DIALOGS)) return;
    const { element } = last;
    const next = element.isConnected && isShown(element) ? element : last.successor();
    if (next?.matches(':disabled')) {
      // For a while: its work is under way.
      if (next !== element) last = new Place(next);
      return;
    }
    last = null;
    next?.focus({ preventScroll: true });
  };
  const observer = new MutationObserver(look);
  document.addEventListener('focusin', ({ target }) => {
    // Dialogs and menus give the focus back by themselves, unless what they were opened from is gone by then.
    if (target instanceof Element && target.closest(DIALOGS)) return;
    observer.disconnect();
    last = null;
    // A terminal draws much.
    if (!(target instanceof HTMLElement) || target.closest('.xterm')) return;
    last = new Place(target);
    observer.observe(document.body, { childList: true, subtree: true, attributeFilter: ['disabled', 'hidden'] });
  });
  // The person let go of it, by a click beside it: there is nothing to keep.
  document.addEventListener('pointerdown', () => (last = null), true);
}
