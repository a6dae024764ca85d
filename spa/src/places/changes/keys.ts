/** Shortcuts of a single letter, while nothing else wants the keys. */
import { isTyping } from '../../lib/keys';
import { preferences } from '../../state/preferences.svelte';
import { ui } from '../../state/ui.svelte';

export const singleKeys =
  (acts: Readonly<Record<string, () => void>>, free: () => boolean) =>
  (event: KeyboardEvent): void => {
    if (!free() || ui.covered || ui.menus > 0 || isTyping(event) || !preferences.singleKeys) return;
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  };
