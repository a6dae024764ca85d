/** Whether the person is at this page: it is visible and has the keyboard. */
class Presence {
  here = $state(document.hasFocus());

  constructor() {
    const look = (): void => void (this.here = document.visibilityState === 'visible' && document.hasFocus());
    for (const type of ['focus', 'blur']) window.addEventListener(type, look);
    document.addEventListener('visibilitychange', look);
  }
}

export const presence = new Presence();
