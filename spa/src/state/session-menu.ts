/** What a person can do with a session besides typing: the rows of its menu, and of the palette. */
import Bell from '@lucide/svelte/icons/bell';
import BellOff from '@lucide/svelte/icons/bell-off';
import Camera from '@lucide/svelte/icons/camera';
import CircleQuestionMark from '@lucide/svelte/icons/circle-question-mark';
import Columns2 from '@lucide/svelte/icons/columns-2';
import Copy from '@lucide/svelte/icons/copy';
import GitPullRequest from '@lucide/svelte/icons/git-pull-request';
import Info from '@lucide/svelte/icons/info';
import PanelBottom from '@lucide/svelte/icons/panel-bottom';
import Pin from '@lucide/svelte/icons/pin';
import PinOff from '@lucide/svelte/icons/pin-off';
import Play from '@lucide/svelte/icons/play';
import Plus from '@lucide/svelte/icons/plus';
import Power from '@lucide/svelte/icons/power';
import ScrollText from '@lucide/svelte/icons/scroll-text';
import Square from '@lucide/svelte/icons/square';
import Trash2 from '@lucide/svelte/icons/trash-2';

import { load } from '../lib/load';
import type { MenuAction } from '../lib/menu';
import { isFrozen } from '../lib/protection';
import { tabTitle } from '../lib/router.svelte';
import type { Session } from '../lib/types';
import { copy, mute, pin, remove, resume, stop } from './actions';
import { BESIDE, panes } from './panes.svelte';
import { connection } from './connection.svelte';
import { preferences } from './preferences.svelte';
import { ui } from './ui.svelte';

/** It has begun to start or to stop, and the end of that is waited for. */
const isMoving = (session: Session): boolean => session.status !== 'running' && session.status !== 'stopped';

/** A row that changes the session: where that cannot be now, the reason stands beside its name. */
function changing(session: Session, action: MenuAction): MenuAction {
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

/** Folds the box for prompts, or unfolds it, where there is one that can be folded. */
export const composerFold = ({ tool }: Session): readonly MenuAction[] =>
  preferences.composerFolds && tool !== 'shell'
    ? [
        {
          label: preferences.composerFolded ? 'Show prompt box' : 'Hide prompt box',
          icon: PanelBottom,
          run: () => (preferences.composerFolded = !preferences.composerFolded),
        },
      ]
    : [];

/** What stands beside the terminal in a wide window. */
export function secondPane(): readonly MenuAction[] {
  if (preferences.narrow) return [];
  const others = BESIDE.filter((beside) => beside !== panes.beside);
  return [
    ...others.map((beside) => ({ label: `${tabTitle(beside)} in a second pane`, icon: Columns2, run: () => (panes.beside = beside) })),
    ...(panes.beside ? [{ label: 'Close the second pane', icon: Square, run: () => (panes.beside = '') }] : []),
  ];
}

/** All that is no matter of a terminal. */
export function menuOf(session: Session): readonly MenuAction[] {
  const bring = (): void => void load(() => import('./clone')).then(({ fetchCommits }) => fetchCommits(session));
  return [
    ...(session.status === 'running'
      ? [{ label: 'Explain status', icon: CircleQuestionMark, run: () => (ui.why = session.id) }]
      : []),
    ...(session.mode === 'clone'
      ? [changing(session, { label: 'Fetch commits to my repo', icon: GitPullRequest, run: bring, disabled: isMoving(session) })]
      : []),
    { label: 'Activity log', icon: ScrollText, run: () => (ui.log = session.id) },
    changing(session, {
      label: session.pinned ? 'Unpin' : 'Pin to the top',
      icon: session.pinned ? PinOff : Pin,
      run: () => void pin(session, !session.pinned),
    }),
    changing(session, {
      label: session.muted ? 'Notify me of it again' : 'Mute notifications',
      icon: session.muted ? Bell : BellOff,
      run: () => void mute(session, !session.muted),
    }),
    { label: 'Snapshots …', icon: Camera, run: () => (ui.snapshots = session.id) },
    { label: 'About this session', icon: Info, run: () => (ui.about = session.id) },
    { label: 'New session here', icon: Plus, run: () => ui.startSession(session.workspace) },
    { label: 'Copy the project path', icon: Copy, run: () => void copy(session.workspace, 'the path') },
    { label: 'Copy the container name', icon: Copy, run: () => void copy(session.id, 'the name') },
    changing(session, { label: 'Delete …', icon: Trash2, run: () => void remove(session), danger: true, apart: true }),
  ];
}
