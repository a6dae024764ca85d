/** The calls about notifications: the devices that the server calls, and when it does. */
import { find, write } from './api';
import type { NewPushDevice, Push, PushChange, PushDevice } from './types';

export const pushApi = {
  settings: async () => (await (await find('/api/push')).json()) as Push,
  change: (change: PushChange) => write<Push>('PATCH', '/api/push', change),
  addDevice: (device: NewPushDevice) => write<PushDevice>('POST', '/api/push/subscriptions', device),
  removeDevice: (id: string) => write<undefined>('DELETE', `/api/push/subscriptions/${encodeURIComponent(id)}`),
  /** A test in so many seconds, to a device or to `webhook`. */
  test: (device: string, delay: number) => write<{ at: string }>('POST', '/api/push/test', { device, delay }),
  presence: (id: string, here: boolean) =>
    write<undefined>('POST', `/api/push/subscriptions/${encodeURIComponent(id)}/presence`, { here }),
};
