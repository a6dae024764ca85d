/** When a dialog closes over a terminal, the keys are the terminal's; elsewhere they go back to where they came from. */
export function afterDialog(event: Event): void {
  const terminals = document.querySelectorAll<HTMLElement>('.xterm-helper-textarea');
  const shown = [...terminals].find((terminal) => terminal.offsetParent !== null);
  if (!shown) return;
  event.preventDefault();
  shown.focus({ preventScroll: true });
}
