/** The palette's offers: sessions, projects, actions and settings, most recently used first. */
import BellRing from '@lucide/svelte/icons/bell-ring';
import FileDiff from '@lucide/svelte/icons/file-diff';
import FileText from '@lucide/svelte/icons/file-text';
import Folder from '@lucide/svelte/icons/folder';
import FolderGit2 from '@lucide/svelte/icons/folder-git-2';
import FolderPlus from '@lucide/svelte/icons/folder-plus';
import HistoryIcon from '@lucide/svelte/icons/history';
import Inbox from '@lucide/svelte/icons/inbox';
import KeyRound from '@lucide/svelte/icons/key-round';
import Keyboard from '@lucide/svelte/icons/keyboard';
import MessagesSquare from '@lucide/svelte/icons/messages-square';
import Network from '@lucide/svelte/icons/network';
import Plus from '@lucide/svelte/icons/plus';
import SettingsIcon from '@lucide/svelte/icons/settings';
import SquareTerminal from '@lucide/svelte/icons/square-terminal';
import SunMoon from '@lucide/svelte/icons/sun-moon';
import Type from '@lucide/svelte/icons/type';

import { projectAndTool, sessionName } from '../../lib/format';
import { shown } from '../../lib/keys';
import { isTexts } from '../../lib/kinds';
import type { Icon } from '../../lib/menu';
import { Persisted } from '../../lib/persisted.svelte';
import { href, router, type Tab, TABS, tabTitle } from '../../lib/router.svelte';
import { find, fit } from '../../lib/search';
import type { Session } from '../../lib/types';
import { deck } from '../../state/deck.svelte';
import { FONT_SIZES, preferences, THEMES } from '../../state/preferences.svelte';
import { composerFold, menuOf } from '../../state/session-menu';
import { powerOf } from '../../state/session-power';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { workspaces } from '../../state/workspaces.svelte';
import { jump } from './shortcuts';

export interface Command {
  /** Unique. */
  key: string;
  title: string;
  detail?: string;
  icon?: Icon;
  session?: Session;
  keys?: string;
  run: () => void;
}

export interface CommandGroup {
  title: string;
  commands: Command[];
  /** How many more were found than are shown. */
  left: number;
}

const MOST_REMEMBERED = 50;
/** How many of a group are shown until one searches; the rest would hide the groups below. */
const MOST_UNASKED = 7;
/** How many of a group are shown of those that were found: nobody reads hundreds, and to draw them takes long. */
const MOST_FOUND = 30;

const TAB_ICONS: Record<Tab, Icon> = {
  terminal: SquareTerminal,
  shell: SquareTerminal,
  transcript: MessagesSquare,
  files: FileText,
  changes: FileDiff,
  network: Network,
};

class Commands {
  readonly #used = new Persisted<string[]>('commands-used', [], isTexts);

  /** Where one can go comes first, and of that where one was last: the palette key and Enter change to and fro. */
  readonly #groups: readonly Omit<CommandGroup, 'left'>[] = $derived([
    { title: 'Sessions', commands: this.#sessions() },
    { title: 'This session', commands: this.#here() },
    { title: 'Actions', commands: this.#recentFirst(this.#actions()) },
    { title: 'Start in', commands: this.#recentFirst(this.#projects()) },
    { title: 'Settings', commands: this.#settings() },
  ]);

  /** The commands that fit the search, best first. The rank of a group is that of its best command. */
  search(text: string): CommandGroup[] {
    const texts = ({ title, detail = '' }: Command) => [title, detail] as const;
    const best = (group: CommandGroup): number => (group.commands[0] ? fit(text, ...texts(group.commands[0])) : 0);
    const groups = this.#groups.map(({ title, commands }) => {
      if (!text.trim()) return { title, commands: commands.slice(0, MOST_UNASKED), left: 0 };
      const found = find(text, commands, texts);
      return { title, commands: found.slice(0, MOST_FOUND), left: Math.max(0, found.length - MOST_FOUND) };
    });
    return groups.filter((group) => group.commands.length > 0).sort((a, b) => best(b) - best(a));
  }

  run(command: Command): void {
    this.#used.current = [command.key, ...this.#used.current.filter((key) => key !== command.key)].slice(0, MOST_REMEMBERED);
    ui.palette = false;
    command.run();
  }

  #recentFirst(commands: Command[]): Command[] {
    const rank = (command: Command): number => {
      const index = this.#used.current.indexOf(command.key);
      return index === -1 ? MOST_REMEMBERED : index;
    };
    return commands.sort((a, b) => rank(a) - rank(b));
  }

  #here(): Command[] {
    const route = router.route;
    const session = route.place === 'session' ? sessions.get(route.id) : undefined;
    if (!session) return [];
    const tabs = TABS.map((tab) => ({
      key: `here ${tab}`,
      title: tabTitle(tab),
      icon: TAB_ICONS[tab],
      run: () => router.go(href.session(session.id, tab)),
    }));
    const rows = [powerOf(session), ...composerFold(session), ...menuOf(session)].filter(({ disabled }) => !disabled);
    return [...tabs, ...rows.map(({ label, icon, run }) => ({ key: `here ${label}`, title: label, icon, run }))];
  }

  #sessions(): Command[] {
    const recent = deck.recent;
    const here = router.route.place === 'session' ? router.route.id : '';
    const rank = ({ id }: Session): number => (recent.includes(id) ? recent.indexOf(id) : recent.length);
    return sessions.ordered
      .map((session) => ({ session, number: sessions.numberOf(session.id) }))
      .map(({ session, number }) => ({
        key: `session ${session.id}`,
        title: sessionName(session),
        detail: projectAndTool(session),
        session,
        ...(number ? { keys: shown.switch.replace('1–9', String(number)) } : {}),
        run: () => router.go(href.session(session.id)),
      }))
      .filter(({ session }) => session.id !== here)
      .sort((a, b) => rank(a.session) - rank(b.session));
  }

  #actions(): Command[] {
    return [
      { key: 'jump', title: 'Jump to the next session that needs you', icon: BellRing, keys: shown.next, run: jump },
      { key: 'new session', title: 'New session …', icon: Plus, keys: 'n', run: () => ui.startSession() },
      { key: 'new project', title: 'New project …', icon: FolderPlus, run: () => (ui.newProject = true) },
      { key: 'go inbox', title: 'Inbox', icon: Inbox, keys: 'g i', run: () => router.go(href.home) },
      { key: 'go projects', title: 'Projects', icon: FolderGit2, keys: 'g p', run: () => router.go(href.projects) },
      { key: 'go history', title: 'History', icon: HistoryIcon, keys: 'g h', run: () => router.go(href.history()) },
      { key: 'go logins', title: 'Logins', icon: KeyRound, keys: 'g l', run: () => router.go(href.logins) },
      { key: 'go settings', title: 'Settings', icon: SettingsIcon, keys: 'g s', run: () => router.go(href.settings) },
      { key: 'shortcuts', title: 'Keyboard shortcuts', icon: Keyboard, keys: '?', run: () => (ui.shortcuts = true) },
    ];
  }

  #projects(): Command[] {
    return workspaces.projects.map((project) => ({
      key: `start ${project.path}`,
      title: project.name,
      detail: workspaces.short(project.root),
      icon: Folder,
      run: () => ui.startSession(project.path),
    }));
  }

  #settings(): Command[] {
    const themes = THEMES.map((theme) => ({
      key: `theme ${theme}`,
      title: `Theme: ${theme}`,
      icon: SunMoon,
      run: () => (preferences.theme = theme),
    }));
    const size = (title: string, change: (now: number) => number): Command => ({
      key: title.toLowerCase(),
      title,
      icon: Type,
      run: () => (preferences.fontSize = change(preferences.fontSize)),
    });
    return [
      ...themes,
      size('Larger terminal text', (now) => now + 1),
      size('Smaller terminal text', (now) => now - 1),
      size('Normal terminal text', () => FONT_SIZES.normal),
    ];
  }
}

export const commands = new Commands();
