/** The event stream: what keeps the page current, and knows when it is not. */
import { api, onSignedOut } from '../lib/api';
import { takeStream } from '../lib/begun';
import { ReconnectingSocket, socketUrl } from '../lib/socket.svelte';
import type { ServerEvent, Session } from '../lib/types';
import { doubt } from '../lib/wake';
import { configuration } from './config.svelte';
import { device } from './device.svelte';
import { prompts } from './prompts.svelte';
import { sessions } from './sessions.svelte';
import { ui } from './ui.svelte';
import { workspaces } from './workspaces.svelte';

/** How long the first load waits for the event stream before it goes on without. */
const PATIENCE_MS = 1_000;

/** Offers a reload if the server has another page than this one. */
async function offerReload(): Promise<void> {
  const { isOutdated } = await import('../lib/outdated');
  if (!(await isOutdated())) return;
  ui.toast('Clincus was updated. This page is the older one.', 'lasting', { label: 'Reload', run: () => location.reload() });
}

export class Connection {
  /** The stream was open and is not now: what is on the page may be old. */
  stale = $state(false);
  /** The server wants this browser to sign in: its cookie is gone, or of an older token. */
  signedOut = $state(false);
  /** Why nothing can be changed now; empty while it can. */
  readonly hindrance: string = $derived.by(() => {
    if (this.signedOut) return 'you are signed out';
    if (this.stale) return 'no connection to the server';
    return sessions.unreachable ? 'Incus does not answer' : '';
  });
  #socket = $state.raw<ReconnectingSocket | null>(null);
  #loaded = false;
  #showsProjects = false;
  #asking = false;
  #opened = false;

  /** Why nothing can be changed of this session now, or of any if there is none; empty while it can. */
  hinders(session: Session | undefined): string {
    return this.hindrance || (session?.unreachable_since ? `${session.member || session.engine || 'Incus'} does not answer` : '');
  }

  get socket(): ReconnectingSocket | null {
    return this.#socket;
  }

  /** Subscribes first and fetches then, so that nothing falls between. */
  start(): void {
    onSignedOut((signedOut) => (this.signedOut = signedOut));
    this.#socket = new ReconnectingSocket({
      url: () => socketUrl('/ws/events'),
      protocol: 'clincus.events.v1',
      begun: takeStream(),
      answers: true, // this page comes from it
      isFinal: () => false,
      onOpen: () => {
        // The terminals need not wait until their own time to try has come.
        if (this.stale) doubt();
        this.stale = this.signedOut = false;
        configuration.broken = '';
        this.#load();
        // Only a server that was started again can be another version.
        if (this.#opened) void offerReload().catch(() => undefined);
        this.#opened = true;
      },
      onLost: () => {
        this.stale = true;
        if (!this.#loaded) this.#load();
        else void this.#ask();
      },
      onMessage: (data) => this.#message(data),
    });
    setTimeout(() => {
      if (!this.#loaded) this.#load();
    }, PATIENCE_MS);
  }

  /** Something on the page shows projects, as a session's terminal does not: they are fetched from now on. */
  showProjects(): void {
    if (this.#showsProjects) return;
    this.#showsProjects = true;
    if (this.#loaded) void workspaces.refresh();
  }

  retry(): void {
    this.#socket?.reconnect();
  }

  /** To a page a refused stream looks as one that was lost. The answer to any request says which it is. */
  async #ask(): Promise<void> {
    if (this.#asking || this.signedOut) return;
    this.#asking = true;
    await api.config().catch(() => undefined);
    this.#asking = false;
  }

  /** Leads to the page that takes the token, and back here. */
  signIn(): void {
    location.reload();
  }

  #load(): void {
    this.#loaded = true;
    if (this.#showsProjects) void workspaces.refresh();
    void configuration.refresh();
    void this.#loadSessions();
  }

  /** Where sessions run, the machine works; what hinders it is asked for only where none do. */
  async #loadSessions(): Promise<void> {
    await sessions.refresh();
    if (sessions.list.length === 0) await configuration.refreshHealth();
  }

  #message(data: string | ArrayBuffer): void {
    if (typeof data !== 'string') return;
    const event = JSON.parse(data) as ServerEvent;
    switch (event.type) {
      case 'session.started':
      case 'session.stopped':
      case 'session.protection':
        void sessions.refresh(event.id);
        break;
      case 'session.changed':
        if (event.rang_at === undefined) void sessions.refresh(event.id);
        else sessions.rang(event.id, event.rang_at);
        break;
      case 'session.agent':
        sessions.agentIs(event.id, event.agent);
        break;
      case 'session.changes':
        sessions.changesAre(event.id, event.changes);
        break;
      case 'session.checkpoint':
      case 'session.comments':
        sessions.reviewed += 1;
        break;
      case 'session.alarm':
        ui.toast(`${sessions.get(event.id)?.name || event.id}: ${event.text}`, 'error');
        break;
      case 'push.changed':
        device.results += 1;
        break;
      case 'session.prompts':
        prompts.changed(event.id);
        break;
      case 'incus.unreachable':
        sessions.unreachable = event.error;
        if (sessions.list.length === 0) void configuration.refreshHealth();
        break;
      case 'incus.reachable':
        sessions.unreachable = '';
        void this.#loadSessions();
        break;
      case 'config.reloaded':
        configuration.broken = '';
        void configuration.refresh();
        if (this.#showsProjects) void workspaces.refresh();
        break;
      case 'config.error':
        configuration.broken = event.error;
        break;
    }
  }
}

export const connection = new Connection();
