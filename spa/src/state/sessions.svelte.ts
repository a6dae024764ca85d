/** The sessions: one snapshot, fetched anew whenever an event says that something changed. */
import { api, ApiError, sentence } from '../lib/api';
import { Persisted } from '../lib/persisted.svelte';
import type { NewSessionRequest, Session, SessionStatus } from '../lib/types';

export type Phase = 'loading' | 'ready' | 'error';

/** A POST that is under way, or that failed and has not been looked at. */
export interface Creation {
  key: number;
  request: NewSessionRequest;
  startedAt: number;
  error: string | null;
}

export interface Group {
  key: 'attention' | SessionStatus;
  title: string;
  sessions: Session[];
}

const GROUPS: readonly { key: Group['key']; title: string }[] = [
  { key: 'attention', title: 'Needs you' },
  { key: 'running', title: 'Running' },
  { key: 'starting', title: 'Starting' },
  { key: 'stopping', title: 'Stopping' },
  { key: 'stopped', title: 'Stopped' },
];

const isRecord = (value: unknown): value is Record<string, string> =>
  typeof value === 'object' && value !== null && Object.values(value).every((one) => typeof one === 'string');

function newestFirst(a: Session, b: Session): number {
  return b.created_at.localeCompare(a.created_at) || a.id.localeCompare(b.id);
}

export class Sessions {
  phase = $state<Phase>('loading');
  error = $state('');
  /** Why Incus does not answer; empty while it answers. Meanwhile the list holds what was seen last. */
  unreachable = $state('');
  creations = $state.raw<readonly Creation[]>([]);

  #snapshot = $state.raw<ReadonlyMap<string, Session>>(new Map());
  /** Changes that the person asked for and the server has not settled yet. */
  #pending = $state.raw<ReadonlyMap<string, SessionStatus>>(new Map());
  /** The bell of each session that was last answered by a look, by its time. */
  readonly #seen = new Persisted<Record<string, string>>('seen-bells', {}, isRecord);
  /** The fetch that is under way, and the one that follows it for all who asked meanwhile. */
  #current: Promise<void> | null = null;
  #next: Promise<void> | null = null;
  #lastKey = 0;

  readonly list: readonly Session[] = $derived(
    [...this.#snapshot.values()]
      .map((session) => {
        const status = this.#pending.get(session.id);
        return status ? { ...session, status } : session;
      })
      .sort(newestFirst),
  );

  readonly groups: readonly Group[] = $derived(
    GROUPS.map(({ key, title }) => ({
      key,
      title: this.unreachable && key === 'running' ? 'Last seen running' : title,
      sessions: this.list.filter((s) => this.#groupOf(s) === key),
    })).filter((group) => group.sessions.length > 0),
  );

  /** Those that wait for the person. */
  readonly waiting: readonly Session[] = $derived(this.list.filter((session) => this.needsAttention(session)));

  /** In the order in which the rail shows them: what Alt+1..9 counts. */
  readonly ordered: readonly Session[] = $derived(this.groups.flatMap((group) => group.sessions));

  get(id: string): Session | undefined {
    return this.list.find((session) => session.id === id);
  }

  of(workspace: string): Session[] {
    return this.list.filter((session) => session.workspace === workspace);
  }

  /** The person looks at a session, in this tab or another one of this browser. */
  seen(id: string): void {
    const session = this.get(id);
    if (!session || !this.needsAttention(session)) return;
    const known = Object.entries(this.#seen.current).filter(([other]) => this.#snapshot.has(other));
    this.#seen.current = { ...Object.fromEntries(known), [id]: session.rang_at };
  }

  /** Its terminal's bell rang, by which the tools say that they wait, and nobody has looked since. */
  needsAttention(session: Session): boolean {
    return session.status === 'running' && !!session.rang_at && this.#seen.current[session.id] !== session.rang_at;
  }

  /**
   * Fetches the list. The server has it at hand, and unlike the one session that an event names it is never 404, which
   * Chromium would report as an error of the page.
   */
  refresh(): Promise<void> {
    if (!this.#current) return (this.#current = this.#load().finally(() => (this.#current = null)));
    // The answer that is on its way may be older than what this was called for.
    return (this.#next ??= this.#current.then(() => {
      this.#next = null;
      return this.refresh();
    }));
  }

  /** Creates a session; a failure stays in `creations` until it is dismissed. It is never tried twice. */
  async create(request: NewSessionRequest): Promise<Session | null> {
    this.#lastKey += 1;
    const creation: Creation = { key: this.#lastKey, request, startedAt: Date.now(), error: null };
    this.creations = [...this.creations, creation];
    try {
      const session = await api.createSession(request);
      this.#put(session);
      this.dismiss(creation.key);
      return session;
    } catch (error) {
      this.creations = this.creations.map((other) =>
        other.key === creation.key ? { ...creation, error: sentence(error) } : other,
      );
      return null;
    }
  }

  dismiss(key: number): void {
    this.creations = this.creations.filter((creation) => creation.key !== key);
  }

  stop(id: string): Promise<void> {
    return this.#act(id, 'stopping', () => api.stopSession(id));
  }

  resume(id: string): Promise<void> {
    return this.#act(id, 'starting', () => api.resumeSession(id));
  }

  delete(id: string): Promise<void> {
    return this.#act(id, 'stopping', () => api.deleteSession(id));
  }

  /** The moment that a session's age counts from: its bell while it waits, else its start. */
  countsFrom(session: Session): string | undefined {
    return this.needsAttention(session) ? session.rang_at : session.started_at || session.created_at;
  }

  #groupOf(session: Session): Group['key'] {
    return this.needsAttention(session) ? 'attention' : session.status;
  }

  async #load(): Promise<void> {
    try {
      const sessions = await api.sessions();
      this.#snapshot = new Map(sessions.map((session) => [session.id, session]));
      this.phase = 'ready';
      this.error = this.unreachable = '';
    } catch (error) {
      this.error = sentence(error);
      if (error instanceof ApiError && error.status === 503) this.unreachable = this.error;
      if (this.phase === 'loading') this.phase = 'error';
    }
  }

  async #act(id: string, meanwhile: SessionStatus, request: () => Promise<unknown>): Promise<void> {
    this.#pending = new Map(this.#pending).set(id, meanwhile);
    try {
      await request();
    } finally {
      await this.refresh();
      const pending = new Map(this.#pending);
      pending.delete(id);
      this.#pending = pending;
    }
  }

  #put(session: Session): void {
    this.#snapshot = new Map(this.#snapshot).set(session.id, session);
  }
}

export const sessions = new Sessions();
