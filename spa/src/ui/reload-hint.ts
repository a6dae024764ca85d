import { connection } from '../state/connection.svelte';
import { ui } from '../state/ui.svelte';

/**
 * Says that a part of the page did not load. If the server is away, a reload would lose what there is; else the server is
 * newer than the page, and a reload helps.
 */
export function reloadHint(): void {
  if (connection.stale) {
    ui.toast('This part of the page comes from the server, which cannot be reached.', 'error');
    return;
  }
  ui.toast('A part of the page could not be loaded.', 'error', { label: 'Reload', run: () => location.reload() });
}
