/** The text of a file that is not saved yet, in this browser: a phone drops the page of a tab in the background. */
import { files, type KeptText, put } from '../../state/written';

const MOST_SESSIONS = 5;
/** Storage has some 5 million characters for all that the page keeps. */
const MOST_CHARACTERS = 300_000;

/** What is kept of a session's file; null if nothing is. */
export function keptText(session: string, path: string): KeptText | null {
  const found = files.current[session];
  return found?.path === path ? found : null;
}

/** Keeps a text in place of what was kept of its session; null keeps nothing. */
export function keepText(session: string, text: KeptText | null): void {
  const fits = text !== null && text.text.length <= MOST_CHARACTERS;
  if (fits || session in files.current) put(files, session, fits ? text : undefined, MOST_SESSIONS);
}
