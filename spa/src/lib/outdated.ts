/** Whether the server has a newer page than this one. */
import { find } from './api';

/** The script that a page begins with. Its name tells what is in it, and it names the page's own script. */
const startOf = (page: ParentNode): string => page.querySelector('script[src*="/start-"]')?.getAttribute('src') ?? '';

/** Asks for the page once more: it comes as 304 if it is the same. False if that cannot be known. */
export async function isOutdated(): Promise<boolean> {
  try {
    const answer = await find('/', { headers: { Accept: 'text/html' } });
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const theirs = startOf(page);
    return theirs !== '' && theirs !== startOf(document);
  } catch {
    return false;
  }
}
