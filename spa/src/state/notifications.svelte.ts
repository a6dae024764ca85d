/** A notification of the system when a session begins to wait while nobody is at the page. Off until asked for. */
import { basename } from '../lib/format';
import { Persisted } from '../lib/persisted.svelte';
import { href, router } from '../lib/router.svelte';
import type { Session } from '../lib/types';
import { ui } from './ui.svelte';

const isBoolean = (value: unknown): value is boolean => typeof value === 'boolean';

/** Why this browser shows no notifications of this page, after asking the person for leave; empty if it does. */
async function hindrance(): Promise<string> {
  if (!globalThis.isSecureContext) return 'Browsers let a page notify you over HTTPS or on this machine only.';
  if (!('Notification' in globalThis)) return 'This browser has no notifications for pages.';
  if ((await Notification.requestPermission()) !== 'granted')
    return 'The browser does not let this page notify you: allow it in the site’s settings.';
  try {
    new Notification('Clincus', { silent: true }).close();
    return '';
  } catch {
    // Chrome on Android throws: https://developer.mozilla.org/docs/Web/API/Notification/Notification
    return 'This browser notifies you by service workers only, which Clincus does not have.';
  }
}

export class Notifications {
  readonly #wanted = new Persisted<boolean>('notify', false, isBoolean);
  /** The bells that were there already, by session. */
  readonly #known = new Map<string, string>();

  get on(): boolean {
    return this.#wanted.current;
  }

  /** Asks the browser for leave first. A browser that refuses leaves it off, and says where to allow it. */
  async turn(on: boolean): Promise<void> {
    const refusal = on ? await hindrance() : '';
    if (refusal) ui.toast(refusal, 'error');
    this.#wanted.current = on && !refusal;
  }

  /** Tells of each bell of the waiting sessions that is new, if nobody is here to see it. */
  tell(waiting: readonly Session[], here: boolean): void {
    for (const { id, rang_at = '', workspace } of waiting) {
      if (this.#known.get(id) === rang_at) continue;
      this.#known.set(id, rang_at);
      // A bell from before the page was opened is in its list already.
      const isNew = Date.parse(rang_at) >= performance.timeOrigin;
      if (this.on && isNew && !here) this.#show(id, basename(workspace));
    }
  }

  #show(id: string, name: string): void {
    // With the session as its tag one takes the place of the one before, in every tab that shows this server.
    // `renotify` lets the second one be heard, too; the DOM's types do not know it.
    const options: NotificationOptions & { renotify: boolean } = { tag: id, renotify: true, icon: '/icon-192.png' };
    const title = `${name} needs you`;
    const go = (): void => router.go(href.session(id));
    try {
      const notification = new Notification(title, options);
      notification.onclick = () => {
        window.focus();
        go();
        notification.close();
      };
    } catch {
      // The permission was kept, and the browser knows notifications of service workers only.
      ui.toast(`${title}.`, 'error', { label: 'Go there', run: go });
    }
  }
}

export const notifications = new Notifications();
