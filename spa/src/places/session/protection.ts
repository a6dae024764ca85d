/** How well a session protects what runs on the host, in words. */
import type { Session } from '../../lib/types';

export interface Protection {
  word: string;
  text: string;
  tone: 'muted' | 'warn' | 'danger';
  /** It is as it should be, which goes without saying in a list. */
  isUsual: boolean;
}

const LEVELS: Record<Session['protection'], Protection> = {
  locked: { word: 'locked', text: 'The container cannot change what is sealed: Git’s hooks and settings, and an editor’s.', tone: 'muted', isUsual: true },
  basic: {
    word: 'basic',
    text: 'Protected paths are read-only, but a program that knows the trick gets around that.',
    tone: 'muted',
    isUsual: false,
  },
  off: { word: 'unprotected', text: 'The agent can change git hooks and other files that run on the host.', tone: 'warn', isUsual: false },
  broken: { word: 'seal broken', text: 'Something was changed that the container may not change.', tone: 'danger', isUsual: false },
};

/** Null until it is known, which it is once the session has started. */
export function protectionOf(session: Session): Protection | null {
  if (session.status === 'starting') return null;
  const level = LEVELS[session.protection];
  const note = session.protection_note;
  return note ? { ...level, text: `${level.text} ${note.charAt(0).toUpperCase()}${note.slice(1)}` } : level;
}
