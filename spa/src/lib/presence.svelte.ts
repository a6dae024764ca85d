/** Whether the person is at this page: it is visible and has the keyboard. */
class Presence {
  here = $state(document.hasFocus());
  /** The page is on the screen, whether or not it has the keyboard. */
  visible = $state(document.visibilityState === 'visible');

  constructor() {
    const look = (): void => {
      this.visible = document.visibilityState === 'visible';
      this.here = this.visible && document.hasFocus();
    };
    for (const type of ['focus', 'blur']) window.addEventListener(type, look);
    document.addEventListener('visibilitychange', look);
  }
}

export const presence = new Presence();
