import { sessions } from './sessions.svelte';

/** The page's title at a place, with the number of sessions that wait: a browser's tab tells it at a glance. */
export function title(place: string): string {
  const { length } = sessions.waiting;
  return `${length ? `(${length}) ` : ''}${place} · Clincus`;
}
