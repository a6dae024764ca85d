/** A notification of the system when a session begins to wait while nobody is at the page. Off until asked for. */
import { basename } from '../lib/format';
import { Persisted } from '../lib/persisted.svelte';
import { href, router } from '../lib/router.svelte';
import type { Session } from '../lib/types';
import { ui } from './ui.svelte';

const isBoolean = (value: unknown): value is boolean => typeof value === 'boolean';

export class Notifications {
  readonly #wanted = new Persisted<boolean>('notify', false, isBoolean);
  /** The bells that were there already, by session. */
  readonly #known = new Map<string, string>();

  get on(): boolean {
    return this.#wanted.current;
  }

  /** Asks the browser for leave first. A browser that refuses leaves it off, and says where to allow it. */
  async turn(on: boolean): Promise<void> {
    const allowed = on && 'Notification' in globalThis && (await Notification.requestPermission()) === 'granted';
    if (on && !allowed) ui.toast('The browser does not let this page notify you: allow it in the site’s settings.', 'error');
    this.#wanted.current = allowed;
  }

  /** Tells of each bell of the waiting sessions that is new, if nobody is here to see it. */
  tell(waiting: readonly Session[], here: boolean): void {
    for (const { id, rang_at = '', workspace } of waiting) {
      if (this.#known.get(id) === rang_at) continue;
      this.#known.set(id, rang_at);
      // What rang before this page was opened is in its list already.
      const isNew = Date.parse(rang_at) >= performance.timeOrigin;
      if (this.on && isNew && !here) this.#show(id, basename(workspace));
    }
  }

  #show(id: string, name: string): void {
    // With the session as its tag one takes the place of the one before, in every tab that shows this server.
    const notification = new Notification(`${name} needs you`, { tag: id, icon: '/icon-192.png' });
    notification.onclick = () => {
      window.focus();
      router.go(href.session(id));
      notification.close();
    };
  }
}

export const notifications = new Notifications();
