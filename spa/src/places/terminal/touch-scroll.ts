/** Scrolls a terminal with a finger, which xterm.js leaves to the page. */
import type { Terminal } from '@xterm/xterm';

/** Programs that take the wheel scroll several lines at each of its notches. */
const LINES_PER_NOTCH = 3;

/** Takes a scroll, in lines, that nothing of the terminal is left for. Towards the past is negative. */
export type Overscroll = (lines: number) => void;

/** Whether the terminal has no line left to scroll to. */
export function isAtEnd(terminal: Terminal, lines: number): boolean {
  const { viewportY, baseY } = terminal.buffer.active;
  return lines < 0 ? viewportY === 0 : viewportY === baseY;
}

/** Scrolls by lines; a program that wants the wheel gets it. Towards the past is negative. */
function scroll(terminal: Terminal, lines: number, at: Touch, beyond?: Overscroll): number {
  const hasMouse = terminal.modes.mouseTrackingMode !== 'none';
  if (!hasMouse && beyond && isAtEnd(terminal, lines)) {
    if (lines) beyond(lines);
    return lines;
  }
  if (!hasMouse && (beyond || terminal.buffer.active.type === 'normal')) {
    terminal.scrollLines(lines);
    return lines;
  }
  const notches = Math.trunc(lines / LINES_PER_NOTCH);
  const { clientX, clientY } = at;
  for (let count = Math.abs(notches); count > 0; count -= 1)
    terminal.element?.querySelector('.xterm-screen')?.dispatchEvent(
      new WheelEvent('wheel', {
        deltaY: Math.sign(notches),
        deltaMode: WheelEvent.DOM_DELTA_LINE,
        clientX,
        clientY,
        bubbles: true,
        cancelable: true,
      }),
    );
  return notches * LINES_PER_NOTCH;
}

/** The terminal must be open. What is added goes with its element. */
export function scrollByTouch(terminal: Terminal, beyond?: Overscroll): void {
  const { element } = terminal;
  if (!element) return;
  let from = 0;
  element.addEventListener('touchstart', (event) => (from = event.touches[0]?.clientY ?? 0), { passive: true });
  element.addEventListener(
    'touchmove',
    (event) => {
      const [touch, second] = event.touches;
      if (!touch || second) return; // two fingers zoom
      event.preventDefault();
      const line = element.clientHeight / terminal.rows;
      const done = scroll(terminal, Math.trunc((from - touch.clientY) / line), touch, beyond);
      from -= done * line;
    },
    { passive: false },
  );
}
