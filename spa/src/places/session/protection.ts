/** How well a session protects what runs on the host, in words. */
import type { Session } from '../../lib/types';

export interface Protection {
  word: string;
  text: string;
  isWeak: boolean;
}

const LEVELS: Record<Session['protection'], Protection> = {
  locked: { word: 'locked', text: 'The container cannot change what runs on the host.', isWeak: false },
  basic: { word: 'protected', text: 'Protected paths are mounted read-only.', isWeak: false },
  off: { word: 'unprotected', text: 'The agent can change git hooks and other files that run on the host.', isWeak: true },
};

/** Null until it is known, which it is once the session has started. */
export function protectionOf(session: Session): Protection | null {
  if (session.status === 'starting') return null;
  const { word, text, isWeak } = LEVELS[session.protection];
  const note = session.protection_note;
  return { word, text: note ? `${text} ${note.charAt(0).toUpperCase()}${note.slice(1)}` : text, isWeak };
}
