/** What a person can do with a session besides typing: the rows of its menu, which are fetched with it, and of the palette. */
import Bell from '@lucide/svelte/icons/bell';
import BellOff from '@lucide/svelte/icons/bell-off';
import Camera from '@lucide/svelte/icons/camera';
import CircleQuestionMark from '@lucide/svelte/icons/circle-question-mark';
import Columns2 from '@lucide/svelte/icons/columns-2';
import Copy from '@lucide/svelte/icons/copy';
import GitPullRequest from '@lucide/svelte/icons/git-pull-request';
import Info from '@lucide/svelte/icons/info';
import PanelBottom from '@lucide/svelte/icons/panel-bottom';
import Pencil from '@lucide/svelte/icons/pencil';
import Pin from '@lucide/svelte/icons/pin';
import PinOff from '@lucide/svelte/icons/pin-off';
import Plus from '@lucide/svelte/icons/plus';
import ScrollText from '@lucide/svelte/icons/scroll-text';
import Square from '@lucide/svelte/icons/square';
import TextSelect from '@lucide/svelte/icons/text-select';
import Trash2 from '@lucide/svelte/icons/trash-2';
import ZoomIn from '@lucide/svelte/icons/zoom-in';
import ZoomOut from '@lucide/svelte/icons/zoom-out';

import { load } from '../lib/load';
import type { MenuAction } from '../lib/menu';
import { isTerminal, type Tab, tabTitle } from '../lib/router.svelte';
import type { Session } from '../lib/types';
import { copy, mute, pin, remove } from './actions';
import { BESIDE, panes } from './panes.svelte';
import { preferences } from './preferences.svelte';
import { changing, isMoving } from './session-power';
import { ui } from './ui.svelte';

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
function secondPane(): readonly MenuAction[] {
  if (preferences.narrow) return [];
  const others = BESIDE.filter((beside) => beside !== panes.beside);
  return [
    ...others.map((beside) => ({ label: `${tabTitle(beside)} in a second pane`, icon: Columns2, run: () => (panes.beside = beside) })),
    ...(panes.beside ? [{ label: 'Close the second pane', icon: Square, run: () => (panes.beside = '') }] : []),
  ];
}

/** What the header of an open session offers besides: its name, and how its terminal looks. */
export function headerRows(session: Session, tab: Tab, rename: () => void): readonly MenuAction[] {
  return [
    { label: 'Rename', icon: Pencil, run: rename },
    ...composerFold(session),
    ...(session.status === 'running' && isTerminal(tab)
      ? [{ label: 'Select text …', icon: TextSelect, run: () => (ui.text = { id: session.id, shell: tab === 'shell' }) }]
      : []),
    ...secondPane(),
    { label: 'Larger terminal text', icon: ZoomIn, run: () => (preferences.fontSize += 1) },
    { label: 'Smaller terminal text', icon: ZoomOut, run: () => (preferences.fontSize -= 1) },
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
