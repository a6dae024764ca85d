import { expect, it } from 'vitest';

import { deviceName, isAppleTouch } from './device';

const SAFARI = 'AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.4 Safari/605.1.15';
const CHROME = 'AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36';

it.each([
  ['Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0', 0, 'Firefox on Linux'],
  [`Mozilla/5.0 (Linux; Android 10; K) ${CHROME}`, 5, 'Chrome on Android'],
  [`Mozilla/5.0 (Windows NT 10.0; Win64; x64) ${CHROME} Edg/140.0.0.0`, 0, 'Edge on Windows'],
  [`Mozilla/5.0 (iPhone; CPU iPhone OS 18_4 like Mac OS X) ${SAFARI}`, 5, 'Safari on iPhone'],
  [`Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) ${SAFARI}`, 5, 'Safari on iPad'],
  [`Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) ${SAFARI}`, 0, 'Safari on Mac'],
  ['curl/8', 0, 'A browser on another system'],
])('tells browser and system of %s', (agent, touchPoints, name) => {
  expect(deviceName(agent, touchPoints)).toBe(name);
  expect(isAppleTouch(agent, touchPoints)).toBe(/iPhone|iPad/.test(name));
});
