/** Keys of the page. The terminal keeps all of its own but the palette key, the session switch and the jump. */
import { giveUpFocus, shownTerminal } from '../../lib/focus';
import { isJump, isPaletteKey, isTyping, sessionSwitch } from '../../lib/keys';
import { href, isTerminal, router } from '../../lib/router.svelte';
import { preferences } from '../../state/preferences.svelte';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';

const SEQUENCE_MS = 1_000;
const NUMBERS_AFTER_MS = 200;
let afterG = 0;

function isDialogOpen(): boolean {
  return document.querySelector('[role="dialog"], [role="alertdialog"], [role="menu"]') !== null;
}

/** Whether a terminal is on its way: what is typed already was meant for it, and is no shortcut. */
function isTerminalDue(): boolean {
  const { route } = router;
  if (route.place !== 'session' || !isTerminal(route.tab) || document.activeElement !== document.body) return false;
  return sessions.get(route.id)?.status === 'running' && !shownTerminal();
}

const GO: Record<string, string> = { i: href.home, p: href.projects, a: href.all(), h: href.history(), l: href.logins, s: href.settings };

const SINGLE: Record<string, () => void> = {
  '?': () => (ui.shortcuts = true),
  n: () => ui.startSession(),
  '/': () => [...document.querySelectorAll<HTMLElement>('main input[type="search"]')].find((field) => field.checkVisibility())?.focus(),
  '[': () => (preferences.railFolded = !preferences.railFolded),
  g: () => (afterG = Date.now()),
};

/** Shows the sessions' numbers while Alt is held; a quick Alt+digit needs none. */
export function showNumbersOnAlt(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const hide = (): void => {
    clearTimeout(timer);
    ui.numbers = false;
  };
  window.addEventListener(
    'keydown',
    (event) => {
      if (event.key !== 'Alt') hide();
      else if (!event.repeat) timer = setTimeout(() => (ui.numbers = true), NUMBERS_AFTER_MS);
    },
    true,
  );
  window.addEventListener('keyup', hide, true);
  window.addEventListener('blur', hide); // Alt+Tab: no key goes up here
}

/** Goes to the next session that needs the person. */
export function jump(): void {
  const next = sessions.next(router.route.place === 'session' ? router.route.id : '');
  if (next) router.go(href.session(next.id));
  else ui.toast(sessions.waiting.length ? 'No other session needs you.' : 'No session needs you.');
}

export function handleKey(event: KeyboardEvent): void {
  const inTerminal = event.target instanceof Element && event.target.closest('.xterm') !== null;
  if (isPaletteKey(event, preferences.terminalPaletteKey, inTerminal)) {
    event.preventDefault();
    ui.palette = !ui.palette;
    // Keys typed before the palette is drawn must not reach the terminal.
    if (ui.palette) giveUpFocus();
    return;
  }
  if (isJump(event)) {
    event.preventDefault();
    if (!isDialogOpen()) jump();
    return;
  }
  const number = sessionSwitch(event);
  const session = number === null ? undefined : sessions.numbered(number);
  if (session && !isDialogOpen()) {
    event.preventDefault();
    router.go(href.session(session.id));
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event) || !preferences.singleKeys) return;
  if (isDialogOpen() || ui.palette || ui.newSession || isTerminalDue()) return;
  const place = Date.now() - afterG < SEQUENCE_MS ? GO[event.key] : undefined;
  const action = place === undefined ? SINGLE[event.key] : () => router.go(place);
  if (place !== undefined) afterG = 0;
  if (!action) return;
  event.preventDefault();
  action();
}
