/** Where places were scrolled to: Back and Forward lead there again, as on any page of the web. */
import { router } from './router.svelte';

/** By address. */
const kept = new Map<string, number>();

/** What a person does who scrolls by themselves. */
const OWN = ['wheel', 'touchmove', 'keydown', 'pointerdown'] as const;

const address = (): string => location.pathname + location.search;

/** Keeps the scroll of a place, and goes back to it as soon as there is enough to scroll. Returns what ends it. */
export function keepScroll(place: HTMLElement): () => void {
  const wanted = router.returned ? (kept.get(address()) ?? 0) : 0;
  const { firstElementChild: content } = place;
  const ends = new AbortController();
  const { signal } = ends;
  place.addEventListener('scroll', () => kept.set(address(), place.scrollTop), { signal });
  const grown = new ResizeObserver(() => {
    if (place.scrollHeight - place.clientHeight < wanted) return;
    grown.disconnect();
    place.scrollTop = wanted;
  });
  if (wanted > 0 && content) {
    grown.observe(content);
    for (const type of OWN) place.addEventListener(type, () => grown.disconnect(), { signal, passive: true });
  }
  return () => {
    ends.abort();
    grown.disconnect();
  };
}
