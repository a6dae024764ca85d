/**
 * Lets a field of several lines be as high as its text where the browser cannot do that by itself: `field-sizing` is in
 * Chromium 123, Safari 26.2 and Firefox 152. The style sheet bounds the height.
 */
export function grow(field: HTMLTextAreaElement, text: string): void {
  if (CSS.supports('field-sizing', 'content')) return;
  field.style.height = 'auto';
  const borders = field.offsetHeight - field.clientHeight;
  if (text) field.style.height = `${field.scrollHeight + borders}px`;
}
