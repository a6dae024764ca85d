/**
 * Tells when a connection is worth trying at once or must be doubted: the network is back, the page is visible again,
 * or the machine slept (seen as a timer that came far too late; browsers have no event for it).
 */
const BEAT_MS = 5_000;
const SLEPT_MS = 20_000;

type Listener = (slept: boolean) => void;

const listeners = new Set<Listener>();
let last = Date.now();
let timer: ReturnType<typeof setInterval> | undefined;

function announce(slept: boolean): void {
  for (const listener of [...listeners]) listener(slept);
}

function beat(): void {
  const now = Date.now();
  const late = now - last - BEAT_MS;
  last = now;
  // A hidden tab's timers are throttled to one a minute; that is not sleep.
  if (late > SLEPT_MS && document.visibilityState === 'visible') announce(true);
}

function online(): void {
  announce(true);
}

function visible(): void {
  last = Date.now();
  if (document.visibilityState === 'visible') announce(false);
}

/** Calls `listener` until the returned function is called. `slept` is true when open connections are likely dead. */
export function onWake(listener: Listener): () => void {
  if (listeners.size === 0) {
    last = Date.now();
    timer = setInterval(beat, BEAT_MS);
    window.addEventListener('online', online);
    document.addEventListener('visibilitychange', visible);
  }
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
    if (listeners.size > 0) return;
    clearInterval(timer);
    window.removeEventListener('online', online);
    document.removeEventListener('visibilitychange', visible);
  };
}
