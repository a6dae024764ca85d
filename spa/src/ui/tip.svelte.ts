/** Which element's tooltip is shown. One pair of listeners serves the whole page. */
const DELAY_MS = 400;
/** After one tooltip the next ones come at once, for this long. */
const WARM_MS = 300;

class Tip {
  element = $state.raw<HTMLElement | null>(null);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #hiddenAt = 0;

  start(): void {
    document.addEventListener('pointerover', (event) => {
      if (event.pointerType === 'mouse') this.#at(event.target, Date.now() - this.#hiddenAt < WARM_MS ? 0 : DELAY_MS);
    });
    document.addEventListener('focusin', (event) => {
      if (event.target instanceof Element && event.target.matches(':focus-visible')) this.#later(() => this.#at(event.target, 0));
    });
    for (const event of ['focusout', 'pointerdown', 'keydown', 'wheel'])
      document.addEventListener(event, () => this.#later(() => this.hide()), { passive: true, capture: true });
  }

  /** Focus moves also while Svelte updates the page, when state must not change. */
  #later(action: () => void): void {
    queueMicrotask(action);
  }

  hide(): void {
    clearTimeout(this.#timer);
    if (this.element) this.#hiddenAt = Date.now();
    this.element = null;
  }

  #at(target: EventTarget | null, delay: number): void {
    const found = target instanceof Element ? target.closest<HTMLElement>('[data-tip]') : null;
    // The menu that the button opened lies where the tooltip would.
    const element = found?.dataset['state'] === 'open' ? null : found;
    if (element === this.element) return;
    this.hide();
    if (element) this.#timer = setTimeout(() => (this.element = element.isConnected ? element : null), delay);
  }
}

export const tip = new Tip();
