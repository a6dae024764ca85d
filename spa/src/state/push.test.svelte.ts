import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { type Call, fakeServer, type Reply } from '../test/fakes';
import { device } from './device.svelte';
import { PushDevices } from './push.svelte';

const KEY = 'BAAB-_8';
const KEY_BYTES = new Uint8Array([4, 0, 1, 251, 255]);

/** The subscription of a browser, by an endpoint and the key that it is bound to. */
class Subscription {
  readonly options: { applicationServerKey: ArrayBuffer };
  constructor(
    readonly endpoint: string,
    key: Uint8Array<ArrayBuffer>,
  ) {
    this.options = { applicationServerKey: key.buffer };
  }

  unsubscribe(): Promise<boolean> {
    subscription = null;
    return Promise.resolve(true);
  }
}

let subscription: Subscription | null;
let asked: { applicationServerKey: Uint8Array<ArrayBuffer> }[];
let registered: unknown[];
let calls: Call[];
let answers: Record<string, Reply>;
let push: PushDevices;

const manager = {
  getSubscription: () => Promise.resolve(subscription),
  subscribe(options: { applicationServerKey: Uint8Array<ArrayBuffer> }) {
    asked.push(options);
    return Promise.resolve((subscription = new Subscription('https://push/new', options.applicationServerKey)));
  },
};
const worker = { pushManager: manager as typeof manager | undefined };

const posts = () => calls.filter(({ method }) => method === 'POST').map(({ body }) => JSON.parse(String(body)) as unknown);

beforeEach(() => {
  subscription = null;
  asked = [];
  registered = [];
  worker.pushManager = manager;
  device.id = '';
  vi.stubGlobal('navigator', {
    userAgent: 'Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0',
    maxTouchPoints: 0,
    serviceWorker: {
      ready: Promise.resolve(worker),
      getRegistration: () => Promise.resolve(worker),
      register: (...words: unknown[]) => {
        registered.push(words);
        return Promise.resolve(worker);
      },
    },
  });
  answers = {
    'GET /api/push': { json: { public_key: KEY, problem: '', devices: [] } },
    'POST /api/push/subscriptions': { status: 201, json: { id: 'd1' } },
  };
  calls = fakeServer(({ method, path }) => answers[`${method} ${path}`] ?? { status: 204 });
  push = new PushDevices();
});

afterEach(() => vi.unstubAllGlobals());

it('subscribes with the key of the server, and gives it the endpoint', async () => {
  await push.subscribe();
  expect(registered).toEqual([['/worker.js', { scope: '/', updateViaCache: 'none' }]]);
  expect(asked).toEqual([{ userVisibleOnly: true, applicationServerKey: KEY_BYTES }]);
  expect(posts()).toEqual([{ endpoint: 'https://push/new', name: 'Firefox on Linux', replaces: '', sound: true }]);
  expect([device.id, push.problem]).toEqual(['d1', '']);
});

it('keeps a subscription that is there', async () => {
  subscription = new Subscription('https://push/old', KEY_BYTES);
  device.id = 'd0';
  await push.subscribe();
  expect(asked).toEqual([]);
  expect(posts()).toEqual([{ endpoint: 'https://push/old', name: 'Firefox on Linux', replaces: 'd0', sound: true }]);
});

it('replaces one that is bound to another key', async () => {
  subscription = new Subscription('https://push/old', new Uint8Array([4, 9]));
  await push.subscribe();
  expect(posts()).toMatchObject([{ endpoint: 'https://push/new' }]);
});

it.each([
  ['the server cannot sign', () => (answers['GET /api/push'] = { json: { public_key: '', problem: 'Install openssl.' } }), 'Install openssl.'],
  ['the browser has no push', () => (worker.pushManager = undefined), 'This browser has no web push.'],
  ['its service is unknown', () => (answers['POST /api/push/subscriptions'] = { status: 400, json: { error: 'unknown' } }), 'Unknown'],
  ['its service is out of reach', () => vi.spyOn(manager, 'subscribe').mockRejectedValueOnce(new Error('AbortError')), 'The browser could not'],
])('says why not when %s', async (_, arrange, problem) => {
  arrange();
  await push.subscribe();
  expect(push.problem).toContain(problem);
  expect(device.id).toBe('');
});

it.each([
  ['keeps', 503, 'd0'],
  ['forgets', 409, ''],
])('%s its id after an answer of %i, so that a later start can try again or not', async (_, status, id) => {
  device.id = 'd0';
  answers['POST /api/push/subscriptions'] = { status, json: { error: 'no' } };
  await push.subscribe();
  expect(device.id).toBe(id);
});

it('unsubscribes in the browser and at the server, which may have forgotten it', async () => {
  await push.subscribe();
  answers['DELETE /api/push/subscriptions/d1'] = { status: 404, json: { error: 'gone' } };
  await push.unsubscribe();
  expect(subscription).toBeNull();
  expect(device.id).toBe('');
  expect(calls.filter(({ method }) => method === 'DELETE').map(({ path }) => path)).toEqual(['/api/push/subscriptions/d1']);
});

it('removes another device without touching this one', async () => {
  await push.subscribe();
  await push.remove('d2');
  expect([subscription?.endpoint, device.id]).toEqual(['https://push/new', 'd1']);
});
