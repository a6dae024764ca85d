/**
 * Notifications of the system on this device. Off until asked for. The server calls by web push, and the page says when its
 * person is here; where the browser has no push, the page itself notifies while it is open.
 */
import { calls, kindOf } from '../lib/agent';
import { ApiError } from '../lib/api';
import { pushApi } from '../lib/api-push';
import { deviceId, isAppleTouch, registration, serviceWorkers } from '../lib/device';
import { basename } from '../lib/format';
import { brokenSince, isFrozen } from '../lib/protection';
import { href, router } from '../lib/router.svelte';
import type { Session } from '../lib/types';
import { device } from './device.svelte';
import { ui } from './ui.svelte';

/** The server counts this device as in use for a minute after each word. */
const HERE_MS = 20_000;

const FORBIDDEN = 'The browser does not let this page notify you: allow it in the site’s settings.';

/** How often the person has given or taken back the browser's leave since the page was opened. */
let leaves = $state(0);

/** Why this browser shows no notifications of this page, whatever the person wants; empty if it may. */
export function obstacle(): string {
  void leaves;
  if (!globalThis.isSecureContext)
    return 'Browsers let a page notify you over HTTPS or on this machine only, and this page came by plain HTTP.';
  if ('Notification' in globalThis) return Notification.permission === 'denied' ? FORBIDDEN : '';
  return isAppleTouch(navigator.userAgent, navigator.maxTouchPoints)
    ? 'On an iPhone or iPad, first put this page on the Home Screen (Share, then “Add to Home Screen”) and open it there.'
    : 'This browser has no notifications for pages.';
}

/** The same, after asking the person for leave. Browsers take that question only after a tap or a click. */
async function hindrance(): Promise<string> {
  const reason = obstacle();
  if (reason) return reason;
  return (await Notification.requestPermission()) === 'granted'
    ? ''
    : FORBIDDEN;
}

/** The moment at which a session began to need its person: its seal's end, its tool's state, else its bell. */
function since(session: Session): string {
  if (isFrozen(session)) return brokenSince(session);
  return calls(session.agent) ? session.agent.since : session.rang_at;
}

/** Whether the person has looked at it already, or wants no call of it: it may still wait, but it is no news. */
const isNoNews = (session: Session): boolean =>
  !isFrozen(session) && (session.muted || (calls(session.agent) && session.agent.seen));

export class Notifications {
  /** The events that were there already, by session. */
  readonly #known = new Map<string, string>();
  /** The sessions that wait now, and are news. */
  #waiting: ReadonlySet<string> = new Set();

  /** Whether the person wants notifications, and the browser still lets the page show them. */
  get on(): boolean {
    return device.wanted.current && obstacle() === '' && Notification.permission === 'granted';
  }

  /** Follows a click on a notification, which the worker reports, and compares what the browser and the server know. */
  start(): void {
    void this.#renew().catch(() => undefined); // the next start tries again
    void this.#watchLeave().catch(() => undefined); // without it, a reload shows what has changed
    serviceWorkers()?.addEventListener('message', ({ data, ports }: MessageEvent<{ type?: unknown; path?: unknown } | null>) => {
      if (data?.type !== 'open' || typeof data.path !== 'string' || !data.path.startsWith('/')) return;
      router.go(data.path);
      ports[0]?.postMessage('taken');
    });
  }

  /** Asks the browser for leave first. A browser that refuses leaves it off, and says where to allow it. */
  async turn(on: boolean): Promise<void> {
    const refusal = on ? await hindrance() : '';
    if (refusal) ui.toast(refusal, 'error');
    device.wanted.current = on && !refusal;
    const { push } = await import('./push.svelte');
    await (this.on ? push.subscribe() : push.unsubscribe());
  }

  /** Tells the server whether the person is here, for as long as this is so: it does not call this device meanwhile. */
  report(here: boolean): () => void {
    const { id } = device;
    if (!id) return () => undefined;
    const say = (): void => void pushApi.presence(id, here).catch((error: unknown) => this.#lost(error));
    say();
    const timer = here ? setInterval(say, HERE_MS) : undefined;
    return () => clearInterval(timer);
  }

  /** Tells of each new event of the waiting sessions, if nobody is here to see it, and takes back what is over. */
  tell(waiting: readonly Session[], here: boolean): void {
    const news = waiting.filter((session) => !isNoNews(session));
    this.#waiting = new Set(news.map(({ id }) => id));
    for (const session of news) {
      const { id, name, workspace } = session;
      const at = since(session);
      if (this.#known.get(id) === at) continue;
      this.#known.set(id, at);
      // An event from before the page was opened is in its list already, and what is pushed comes by the worker.
      const isNew = Date.parse(at) >= performance.timeOrigin;
      const words = isFrozen(session) ? 'was frozen: something that it may not change was changed' : 'needs you';
      const kind = isFrozen(session) ? 'waiting' : kindOf(session.agent);
      if (this.on && isNew && !here && !device.id) void this.#show(id, kind, `${name || basename(workspace)} ${words}`);
    }
    if (this.on) void this.#close(this.#waiting);
  }

  /** Browsers change the leave in settings of their own, beside the open page. */
  async #watchLeave(): Promise<void> {
    // There are browsers without such a question.
    const { permissions } = navigator as { permissions?: Permissions };
    const leave = await permissions?.query({ name: 'notifications' });
    const note = (): void => void leaves++;
    leave?.addEventListener('change', note);
    note(); // it may have changed before there was anybody to hear of it
  }

  /**
   * Gives the server the subscription that the browser has now. The browser renews it by itself, and the worker may have
   * been unable to report that. One that is gone is made again.
   */
  async #renew(): Promise<void> {
    if (!this.on || !device.id) return;
    // There are browsers with workers and without push.
    const worker = (await registration()) as { pushManager?: PushManager } | undefined;
    const subscription = await worker?.pushManager?.getSubscription();
    if (!subscription || (await deviceId(subscription.endpoint)) !== device.id) await this.#subscribe();
  }

  async #subscribe(): Promise<void> {
    const { push } = await import('./push.svelte');
    await push.subscribe();
  }

  /**
   * The server does not know this device. 410: the person has removed it on another one, which holds here, too. 404: the
   * worker has put a renewed subscription in its place, or the server has lost its list.
   */
  async #lost(error: unknown): Promise<void> {
    if (!(error instanceof ApiError) || !device.id) return;
    if (error.status === 404) await this.#subscribe();
    if (error.status !== 410) return;
    device.id = '';
    await this.turn(false);
    ui.toast('This device was removed from those that Clincus notifies.', 'lasting');
  }

  /** Closes the notifications of sessions that need nobody any more. */
  async #close(waiting: ReadonlySet<string>): Promise<void> {
    for (const one of (await (await registration())?.getNotifications()) ?? []) {
      const { path = '' } = (one.data ?? {}) as { path?: string };
      if (path.startsWith('/sessions/') && !waiting.has(one.tag)) one.close();
    }
  }

  async #show(id: string, kind: string, title: string): Promise<void> {
    const { push } = await import('./push.svelte');
    if (!(await push.wants(kind)) || !this.#waiting.has(id)) return;
    // With the session as its tag one takes the place of the one before, in every tab that shows this server.
    // `renotify` lets the second one be heard, too; the DOM's types do not know it.
    const path = href.session(id);
    const sound = device.sound.current;
    const options: NotificationOptions & { renotify: boolean } = {
      tag: id,
      renotify: sound,
      silent: !sound,
      icon: '/icon-192.png',
      data: { path },
    };
    try {
      const worker = await registration();
      if (worker?.active) {
        await worker.showNotification(title, options);
        return;
      }
      const notification = new Notification(title, options);
      notification.onclick = () => {
        window.focus();
        router.go(path);
        notification.close();
      };
    } catch {
      // Chrome on Android knows notifications of service workers only, and has none here.
      ui.toast(`${title}.`, 'error', { label: 'Go there', run: () => router.go(path) });
    }
  }
}

export const notifications = new Notifications();
