/** What this browser is, and what it can do that not every browser can. */

const BROWSERS: readonly [RegExp, string][] = [
  [/Edg(A|iOS)?\//, 'Edge'],
  [/Firefox\/|FxiOS\//, 'Firefox'],
  [/Chrome\/|CriOS\//, 'Chrome'],
  [/Safari\//, 'Safari'],
];
const SYSTEMS: readonly [RegExp, string][] = [
  [/iPhone/, 'iPhone'],
  [/iPad/, 'iPad'],
  [/Android/, 'Android'],
  [/Windows/, 'Windows'],
  [/Macintosh/, 'Mac'],
  [/CrOS/, 'ChromeOS'],
  [/Linux/, 'Linux'],
];

const named = (table: readonly [RegExp, string][], agent: string): string | undefined =>
  table.find(([pattern]) => pattern.test(agent))?.[1];

/** What people call a browser, by what it says of itself: “Firefox on Linux”. `touchPoints` tells an iPad, which calls itself a Mac. */
export function deviceName(agent: string, touchPoints = 0): string {
  const system = named(SYSTEMS, agent) ?? 'another system';
  return `${named(BROWSERS, agent) ?? 'A browser'} on ${system === 'Mac' && touchPoints > 1 ? 'iPad' : system}`;
}

/** Whether it is an iPhone or iPad, where only a page on the Home Screen may notify. */
export function isAppleTouch(agent: string, touchPoints = 0): boolean {
  return /iPhone|iPad$/.test(deviceName(agent, touchPoints));
}

/** Its service workers. There are none over plain HTTP from another machine. */
export function serviceWorkers(): ServiceWorkerContainer | undefined {
  return navigator.serviceWorker;
}

/** The registration of the page's worker, if there is one. */
export function registration(): Promise<ServiceWorkerRegistration | undefined> {
  return serviceWorkers()?.getRegistration() ?? Promise.resolve(undefined);
}

/** The id of a device at the server: the beginning of the SHA-256 of its subscription's endpoint. */
export async function deviceId(endpoint: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(endpoint));
  return Array.from(new Uint8Array(digest).slice(0, 8), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
