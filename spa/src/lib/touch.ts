/** Whether the main pointer is a finger: a field that gets the focus raises a keyboard over half of the page. */
export function isTouch(): boolean {
  return window.matchMedia('(pointer: coarse)').matches;
}
