// @vitest-environment happy-dom
import { cleanup, render } from '@testing-library/svelte';
import { afterEach, expect, it } from 'vitest';

import Markdown from './Markdown.svelte';
import { parse, safeHref } from './parse';

afterEach(cleanup);

/** The page's HTML of a text, without what Svelte leaves there. */
function html(text: string): string {
  const { container } = render(Markdown, { text });
  return (container.querySelector('.markdown')?.innerHTML ?? '').replace(/<!--.*?-->/g, '').replace(/ class="[^"]*"/g, '').replace(/>\s+</g, '><').trim();
}

it.each([
  ['a heading and a paragraph', '# Plan\n\nDo *this* and **that**.', '<h3>Plan</h3><p>Do <em>this</em> and <strong>that</strong>.</p>'],
  ['a list in a list', '- a\n  - b\n- c', '<ul><li><p>a</p><ul><li><p>b</p></li></ul></li><li><p>c</p></li></ul>'],
  ['numbers', '3. c\n4. d', '<ol start="3"><li><p>c</p></li><li><p>d</p></li></ol>'],
  ['code', 'Run `make`:\n\n```sh\nmake <b>\n```', '<p>Run <code>make</code>:</p><pre>make &lt;b&gt;</pre>'],
  ['a link', '[here](https://example.com/a)', '<p><a target="_blank" rel="noopener noreferrer" href="https://example.com/a" title="https://example.com/a">here</a></p>'],
  ['a quote and a line', '> said\n\n---', '<blockquote><p>said</p></blockquote><hr>'],
  ['a table', '| a | b |\n| - | - |\n| 1 | 2 |', '<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>'],
  ['an escape and an entity', '1 \\* 2 &amp; 3', '<p>1 * 2 &amp; 3</p>'],
])('draws %s', (_, text, expected) => {
  expect(html(text)).toBe(expected);
});

it.each([
  ['a tag in a line', 'a <img src=x onerror=alert(1)> b'],
  ['a block of HTML', '<script>alert(1)</script>\n\n<iframe src="https://evil"></iframe>'],
  ['a picture, which would tell its server', '![secret](https://evil/?q=1)'],
  ['a script as a link', '[x](javascript:alert(1)) [y](data:text/html,hi) <javascript:alert(1)>'],
  ['a file of the container', '[x](/etc/passwd) [y](../a.md)'],
])('makes no part of the page of %s', (_, text) => {
  const { container } = render(Markdown, { text });
  expect(container.querySelectorAll('img, script, iframe, a, [onerror]')).toHaveLength(0);
});

it('copes with what is nested without an end', () => {
  expect(html(`${'> '.repeat(3_000)}deep`)).toContain('deep');
  expect(parse('*'.repeat(20_000)).length).toBeGreaterThan(0);
});

it.each([
  ['https://example.com', 'https://example.com/'],
  ['a@example.com', 'mailto:a@example.com'],
  ['JavaScript:alert(1)', ''],
  ['file:///etc/passwd', ''],
  ['//example.com', ''],
])('lets an address lead only where a person may go: %s', (address, href) => {
  expect(safeHref(address)).toBe(href);
});
