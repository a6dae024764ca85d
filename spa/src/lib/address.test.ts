import { expect, it } from 'vitest';

import { spelledOut } from './address';

it.each([
  ['https://example.com/a?b=c', 'https://example.com/a?b=c'],
  ['https://\u0430pple.com/', 'https://xn--pple-43d.com/'],
  ['https://example.com/\u202efdp.exe', 'https://example.com/%E2%80%AEfdp.exe'],
  ['https://good.example@evil.example/', 'https://good.example@evil.example/'],
  ['javascript:alert(1)', ''],
  ['file:///etc/passwd', ''],
  ['nothing', ''],
])('spells %s out', (address, shown) => {
  expect(spelledOut(address)).toBe(shown);
});
