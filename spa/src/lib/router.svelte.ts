/** Real paths: each place has an address that survives reload, back and a copied link. */
import { flushSync } from 'svelte';

import { decodePath, encodePath } from './paths';

export const TABS = ['terminal', 'shell', 'transcript', 'files', 'changes', 'network'] as const;
export type Tab = (typeof TABS)[number];

export const tabTitle = (tab: Tab): string => tab.charAt(0).toUpperCase() + tab.slice(1);

/** Whether a tab is a terminal, which takes the keys. */
export const isTerminal = (tab: Tab | null): boolean => tab === 'terminal' || tab === 'shell';

/** The terminals of one grid. */
export const MOST_WATCHED = 9;

export type Route =
  | { place: 'home' }
  | { place: 'projects' }
  | { place: 'session'; id: string; tab: Tab; path: string }
  | { place: 'history'; q: string; tool: string; page: number }
  | { place: 'logins' }
  | { place: 'settings' }
  /** `ids`: those that are watched side by side; none: the list. */
  | { place: 'all'; ids: readonly string[] }
  | { place: 'unknown'; path: string };

export function parse(url: URL): Route {
  const parts = url.pathname.split('/').filter(Boolean).map(decode);
  const [first, second, third] = parts;
  if (first === undefined || (parts.length === 1 && first === 'sessions')) return { place: 'home' };
  if (first === 'projects' && parts.length === 1) return { place: 'projects' };
  if (first === 'sessions' && second !== undefined && parts.length <= 3) {
    const tab = TABS.find((name) => name === (third ?? 'terminal'));
    const path = /[?&]path=([^&]*)/.exec(url.search)?.[1] ?? '';
    if (tab) return { place: 'session', id: second, tab, path: decodePath(path) };
  }
  if (first === 'history' && parts.length === 1) {
    const page = Math.max(1, Math.floor(Number(url.searchParams.get('page') ?? 1)) || 1);
    return { place: 'history', q: url.searchParams.get('q') ?? '', tool: url.searchParams.get('tool') ?? '', page };
  }
  if (first === 'all' && parts.length === 1) {
    const ids = (url.searchParams.get('watch') ?? '').split(',').filter(Boolean);
    return { place: 'all', ids: [...new Set(ids)].slice(0, MOST_WATCHED) };
  }
  if (first === 'logins' && parts.length === 1) return { place: 'logins' };
  if (first === 'settings' && parts.length === 1) return { place: 'settings' };
  return { place: 'unknown', path: url.pathname };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const href = {
  home: '/',
  projects: '/projects',
  history: (q = '', tool = '', page = 1): string => {
    const query = new URLSearchParams();
    if (q) query.set('q', q);
    if (tool) query.set('tool', tool);
    if (page > 1) query.set('page', String(page));
    return query.size ? `/history?${query.toString()}` : '/history';
  },
  logins: '/logins',
  settings: '/settings',
  all: (ids: readonly string[] = []): string => (ids.length > 0 ? `/all?watch=${ids.map(encodeURIComponent).join(',')}` : '/all'),
  session: (id: string, tab: Tab = 'terminal', path = ''): string => {
    const base = `/sessions/${encodeURIComponent(id)}`;
    if (tab === 'terminal') return base;
    return path ? `${base}/${tab}?path=${encodePath(path)}` : `${base}/${tab}`;
  },
};

export class Router {
  route = $state.raw<Route>({ place: 'home' });
  /** The person has gone somewhere since the page was loaded. */
  moved = false;
  /** They came to the place that is shown by Back or Forward. */
  returned = false;

  /** Follows the address bar from now on, and takes over plain clicks on links of this page. */
  start(): void {
    const follow = (): void => {
      this.route = parse(new URL(location.href));
    };
    follow();
    window.addEventListener('popstate', () => {
      this.moved = this.returned = true;
      follow();
    });
    document.addEventListener('click', (event) => {
      if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
      const link = event.target instanceof Element ? event.target.closest('a') : null;
      if (!link?.href || link.target || link.origin !== location.origin || link.hasAttribute('download')) return;
      event.preventDefault();
      this.go(link.pathname + link.search);
    });
  }

  go(path: string, replace = false): void {
    if (path !== location.pathname + location.search) {
      if (replace) history.replaceState(null, '', path);
      else history.pushState(null, '', path);
    }
    this.moved = true;
    this.returned = false;
    // At once, so that the next key already finds the new place, and none reaches a terminal that is no longer shown.
    flushSync(() => (this.route = parse(new URL(location.href))));
    const active = document.activeElement;
    if (active instanceof HTMLElement && active.closest('[hidden]')) active.blur();
  }
}

export const router = new Router();
