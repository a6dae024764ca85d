/**
 * The part of the page that a phone's keyboard leaves visible. Chromium makes the page smaller by itself
 * (`interactive-widget` in index.html). Safari lays the keyboard over the page, and says so by `visualViewport` only.
 */

/** What hides less is no keyboard: the bars of a browser come and go while one scrolls. */
const LEAST_KEYBOARD_PX = 60;

/**
 * Keeps the visible part in CSS: `--app-height` and `--app-top` (where it begins: Safari scrolls a field into view),
 * and `--keyboard`, the height of what lies over the page's end. None is set while no keyboard is up.
 */
export function followKeyboard(): void {
  // Old browsers lack it (https://drafts.csswg.org/cssom-view/#dom-window-visualviewport).
  const seen = window.visualViewport;
  if (!seen) return;
  const { style, dataset } = document.documentElement;
  const follow = (): void => {
    // Of a page that is zoomed in, only a part is visible without any keyboard.
    const height = seen.height * seen.scale;
    const isUp = window.innerHeight - height > LEAST_KEYBOARD_PX;
    if (isUp) {
      style.setProperty('--app-height', `${height}px`);
      style.setProperty('--app-top', `${seen.offsetTop}px`);
      style.setProperty('--keyboard', `${Math.max(0, window.innerHeight - seen.offsetTop - height)}px`);
      dataset['keyboard'] = '';
    } else {
      for (const name of ['--app-height', '--app-top', '--keyboard']) style.removeProperty(name);
      delete dataset['keyboard'];
    }
  };
  seen.addEventListener('resize', follow);
  seen.addEventListener('scroll', follow);
  follow();
}
