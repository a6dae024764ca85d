/** Says while a list must keep its order: a row that moves is another one under the pointer. */
import type { Attachment } from 'svelte/attachments';

/** A pointer that lies still for so long is about to press nothing. */
const REST_MS = 10_000;

export class Steady {
  held = $state(false);
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Watches the list. */
  readonly list: Attachment<HTMLElement> = (list) => {
    const inside = (event: Event): boolean => event.target instanceof Node && list.contains(event.target);
    const isFocused = (): boolean => list.contains(document.activeElement) && !!document.activeElement?.matches(':focus-visible');
    const hold = (): void => {
      this.held = true;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(release, REST_MS);
    };
    const release = (): void => {
      clearTimeout(this.#timer);
      this.held = false;
    };
    const leave = (): void => {
      if (!isFocused()) release();
    };
    // What is typed elsewhere tells that the pointer only lies there.
    const type = (event: Event): void => (inside(event) ? hold() : release());
    const focus = (): void => {
      if (isFocused()) hold();
    };
    // The focus also goes amid an update that takes its element away: no state may change there.
    const later = (act: () => void) => (): void => queueMicrotask(act);
    for (const name of ['pointermove', 'pointerdown']) list.addEventListener(name, hold);
    list.addEventListener('pointerleave', leave);
    list.addEventListener('focusout', later(leave));
    list.addEventListener('focusin', later(focus));
    window.addEventListener('keydown', type, true);
    return () => {
      window.removeEventListener('keydown', type, true);
      clearTimeout(this.#timer);
    };
  };
}
