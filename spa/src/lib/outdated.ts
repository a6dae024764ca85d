/** Whether the server has a newer page than this one. */
import { find } from './api';

/** The scripts of a page; their names tell what is in them. */
const scriptsOf = (page: ParentNode): string =>
  [...page.querySelectorAll('script[src]')].map((one) => one.getAttribute('src')).join(' ');

/** Asks for the page once more: it comes as 304 if it is the same. False if that cannot be known. */
export async function isOutdated(): Promise<boolean> {
  try {
    const answer = await find('/', { headers: { Accept: 'text/html' } });
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const theirs = scriptsOf(page);
    return theirs !== '' && theirs !== scriptsOf(document);
  } catch {
    return false;
  }
}
