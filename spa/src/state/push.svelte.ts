/** Web push: the devices that the server calls. The settings and the switch load it, no page does at its start. */
import { ApiError, sentence } from '../lib/api';
import { pushApi } from '../lib/api-push';
import { deviceName, registration, serviceWorkers } from '../lib/device';
import type { Push, PushChange } from '../lib/types';
import { device } from './device.svelte';

/** Base64url as bytes. */
function bytes(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (char) => char.charCodeAt(0));
}

const isSame = (a: ArrayBuffer | null | undefined, b: Uint8Array): boolean =>
  !!a && a.byteLength === b.length && new Uint8Array(a).every((byte, at) => byte === b[at]);

/** What pushes come by. There are browsers with workers and without it. */
const managerOf = (worker: ServiceWorkerRegistration | undefined): PushManager | undefined => worker?.pushManager;

/** Whether the server wants no such device. After any other failure the next start of the page tries again. */
const isRefusal = (error: unknown): boolean => error instanceof ApiError && [400, 404, 409, 410].includes(error.status);

export class PushDevices {
  current = $state.raw<Push | null>(null);
  error = $state('');
  /** Why this browser gets no pushes although it was asked to; empty if it gets them. */
  problem = $state('');
  /** Ends with the change that was asked for last. */
  #changing: Promise<void> = Promise.resolve();
  /** The number of the last question or change: an answer to an earlier question may be out of date, and is not shown. */
  #asked = 0;

  async refresh(): Promise<void> {
    const number = ++this.#asked;
    await this.#changing;
    try {
      const current = await pushApi.settings();
      if (number === this.#asked) this.current = current;
      this.error = '';
    } catch (error) {
      this.error = sentence(error);
    }
  }

  /**
   * Changes when the person is called, on all devices. What is changed may follow from what holds, so the change before is
   * waited for. Throws what the server says against it.
   */
  change(change: () => PushChange): Promise<void> {
    this.#asked++;
    const done = this.#changing.then(async () => {
      this.current = await pushApi.change(change());
    });
    this.#changing = done.catch(() => undefined);
    return done;
  }

  /** Whether a person who is asked now wants to be told of such an event; if the server does not say, it is told. */
  async wants(kind: string): Promise<boolean> {
    await this.refresh();
    return !this.current || (this.current.on.includes(kind) && !this.current.is_quiet);
  }

  /** Has this device make a sound, or none. */
  async setSound(sound: boolean): Promise<void> {
    device.sound.current = sound;
    if (device.id) await this.subscribe();
  }

  /** Has the server call this browser, if the person gave leave to notify. */
  async subscribe(): Promise<void> {
    try {
      this.problem = await this.#subscribe();
      if (this.problem) device.id = '';
    } catch (error) {
      this.problem = error instanceof ApiError ? error.message : 'The browser could not reach its push service.';
      if (isRefusal(error)) device.id = '';
    }
    await this.refresh();
  }

  /** Has it call this browser no more. */
  async unsubscribe(): Promise<void> {
    const id = device.id;
    device.id = this.problem = '';
    await (await managerOf(await registration())?.getSubscription())?.unsubscribe();
    if (id) await this.#forget(id);
  }

  /** Has the server forget a device: this one or another. */
  async remove(id: string): Promise<void> {
    await (id === device.id ? this.unsubscribe() : this.#forget(id));
  }

  async #forget(id: string): Promise<void> {
    try {
      await pushApi.removeDevice(id);
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) throw error;
    }
    await this.refresh();
  }

  async #subscribe(): Promise<string> {
    const { public_key, problem } = await pushApi.settings();
    if (!public_key) return problem;
    const workers = serviceWorkers();
    const manager = managerOf(await workers?.register('/worker.js', { scope: '/', updateViaCache: 'none' }));
    if (!workers || !manager) return 'This browser has no web push.';
    await workers.ready;
    const applicationServerKey = bytes(public_key);
    let subscription = await manager.getSubscription();
    if (subscription && !isSame(subscription.options.applicationServerKey, applicationServerKey)) {
      await subscription.unsubscribe(); // it is of a server with another key
      subscription = null;
    }
    subscription ??= await manager.subscribe({ userVisibleOnly: true, applicationServerKey });
    const name = deviceName(navigator.userAgent, navigator.maxTouchPoints);
    device.id = (await pushApi.addDevice({ endpoint: subscription.endpoint, name, replaces: device.id, sound: device.sound.current })).id;
    return '';
  }
}

export const push = new PushDevices();
