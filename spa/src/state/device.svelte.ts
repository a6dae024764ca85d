/** This browser among the devices that the server calls. */
import { isBoolean } from '../lib/kinds';
import { Persisted } from '../lib/persisted.svelte';

const isString = (value: unknown): value is string => typeof value === 'string';

class Device {
  readonly #id = new Persisted<string>('push-device', '', isString);
  /** Whether the person wants notifications in this browser. */
  readonly wanted = new Persisted<boolean>('notify', false, isBoolean);
  /** Whether notifications on this device may make a sound. The server knows it too, for what the worker shows. */
  readonly sound = new Persisted<boolean>('notify-sound', true, isBoolean);
  /** Goes up whenever a call to some device, or to the webhook, has had a result. */
  results = $state(0);

  /** Its id at the server; empty while it gets no pushes. */
  get id(): string {
    return this.#id.current;
  }

  set id(id: string) {
    this.#id.current = id;
  }
}

export const device = new Device();
