/** Where the keys go: to a place that one goes to, and back from a dialog. */
import { isTouch } from './touch';

/** The terminal that is shown, if any. */
export function shownTerminal(): HTMLElement | undefined {
  return [...document.querySelectorAll<HTMLElement>('.xterm-helper-textarea')].find((one) => one.offsetParent !== null);
}

/** The element that had the focus when the palette took it. */
let givenUp: HTMLElement | null = null;

/** Whether the palette has taken the focus, and gives it back. */
export const isGivenUp = (): boolean => givenUp !== null;

/** Lets nothing that is typed from now on reach what has the focus; `afterDialog` gives it back. */
export function giveUpFocus(): void {
  givenUp = document.activeElement instanceof HTMLElement ? document.activeElement : null;
  givenUp?.blur();
}

/** Focuses a place that the person went to, and keeps the focus there when the palette that led to it closes. */
export function focusPlace(place: HTMLElement): void {
  if (givenUp) givenUp = place;
  place.focus({ preventScroll: true });
}

/**
 * When a dialog closes over a terminal, the keys are the terminal's; elsewhere they go back to where they came from. A
 * terminal that gets the focus raises the keyboard of a phone, so there they go back where they came from, too.
 */
export function afterDialog(event: Event): void {
  const next = isTouch() ? givenUp : (shownTerminal() ?? givenUp);
  givenUp = null;
  if (!next?.isConnected || next === document.body) return;
  event.preventDefault();
  next.focus({ preventScroll: true });
}
