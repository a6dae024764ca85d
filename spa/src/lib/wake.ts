/**
 * Tells when a connection is worth trying at once, or must be doubted: the network is back, the person or the page is, or
 * the machine slept (seen as a timer that came far too late; browsers have no event for it).
 */
const BEAT_MS = 5_000;
const SLEPT_MS = 20_000;

type Listener = () => void;

const listeners = new Set<Listener>();
let last = Date.now();
let timer: ReturnType<typeof setInterval> | undefined;

/** One connection turned out dead without a word: the others are no better than they look, either. */
export function doubt(): void {
  for (const listener of [...listeners]) listener();
}

function beat(): void {
  const now = Date.now();
  const late = now - last - BEAT_MS;
  last = now;
  // A hidden tab's timers are throttled to one a minute; that is not sleep.
  if (late > SLEPT_MS && document.visibilityState === 'visible') doubt();
}

function visible(): void {
  last = Date.now();
  if (document.visibilityState === 'visible') doubt();
}

function listen(action: 'addEventListener' | 'removeEventListener'): void {
  for (const type of ['online', 'focus', 'pageshow']) window[action](type, doubt);
  for (const type of ['visibilitychange', 'resume']) document[action](type, visible);
}

/** Calls `listener` until the returned function is called. */
export function onWake(listener: Listener): () => void {
  if (listeners.size === 0) {
    last = Date.now();
    timer = setInterval(beat, BEAT_MS);
    listen('addEventListener');
  }
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
    if (listeners.size > 0) return;
    clearInterval(timer);
    listen('removeEventListener');
  };
}
