/** The one button of a session beside its menu: it stops the session or resumes it. */
import Play from '@lucide/svelte/icons/play';
import Power from '@lucide/svelte/icons/power';

import { load } from '../lib/load';
import type { MenuAction } from '../lib/menu';
import { isFrozen } from '../lib/protection';
import type { Session } from '../lib/types';
import { resume, stop } from './actions';
import { connection } from './connection.svelte';

/** It has begun to start or to stop, and the end of that is waited for. */
export const isMoving = (session: Session): boolean => session.status !== 'running' && session.status !== 'stopped';

/** A row that changes the session: where that cannot be now, the reason stands beside its name. */
export function changing(session: Session, action: MenuAction): MenuAction {
  const hindrance = connection.hinders(session);
  return hindrance ? { ...action, label: `${action.label} (${hindrance})`, disabled: true } : action;
}

/** Stops a session, or resumes one that has stopped. One that is frozen for a broken seal can only stop here. */
export function powerOf(session: Session): MenuAction {
  if (isFrozen(session)) {
    const keep = (): void => void load(() => import('./seals')).then(({ stopAndKeep }) => stopAndKeep(session));
    return changing(session, { label: 'Stop and keep', icon: Power, run: keep });
  }
  return session.status === 'stopped'
    ? changing(session, { label: 'Resume', icon: Play, run: () => void resume(session) })
    : changing(session, { label: 'Stop', icon: Power, run: () => void stop(session), disabled: isMoving(session) });
}
