/** The sessions: one snapshot. Of what an event says that it changed the page fetches that session anew. */
import { SvelteMap } from 'svelte/reactivity';

import { calls, rank } from '../lib/agent';
import { api, ApiError, sentence } from '../lib/api';
import { isTextRecord } from '../lib/kinds';
import { Once } from '../lib/once';
import { Persisted } from '../lib/persisted.svelte';
import { asksToAccept, brokenSince, isFrozen } from '../lib/protection';
import type { Agent, NewSessionRequest, Session, SessionChange, SessionStatus } from '../lib/types';
import { takeBirths } from './written';

export type Phase = 'loading' | 'ready' | 'error';

/** A POST that is under way, or that failed and has not been looked at. */
export interface Creation {
  key: number;
  request: NewSessionRequest;
  startedAt: number;
  error: string | null;
  /** What was sealed at the last start is something else now: the next try can accept that. */
  asks: boolean;
}

export interface Group {
  key: 'attention' | 'working' | 'idle' | 'running' | 'away' | 'stopping' | 'stopped';
  title: string;
  sessions: Session[];
}

/**
 * `stale` is the title while Incus does not answer. `running` are those whose tool's state nobody knows, `away` those
 * whose own engine does not answer.
 */
const GROUPS: readonly { key: Group['key']; title: string; stale?: string }[] = [
  { key: 'attention', title: 'Needs you' },
  { key: 'working', title: 'Working', stale: 'Last seen working' },
  { key: 'idle', title: 'Idle', stale: 'Last seen idle' },
  { key: 'running', title: 'Running', stale: 'Last seen running' },
  { key: 'away', title: 'Unreachable' },
  { key: 'stopping', title: 'Stopping' },
  { key: 'stopped', title: 'Stopped' },
];

/** How the tool's state groups a session that runs and needs nobody. */
const GROUP_OF: Partial<Record<Agent['state'], Group['key']>> = {
  working: 'working',
  starting: 'working',
  unknown: 'running',
  none: 'running',
};

/** The digits that Alt goes with. */
const MOST_NUMBERS = 9;

const isNumbers = (value: unknown): value is Record<string, number> =>
  typeof value === 'object' && value !== null && Object.values(value).every((one) => Number.isInteger(one) && one >= 1 && one <= MOST_NUMBERS);

/** What a person has pinned stands first wherever it is listed. */
function pinnedFirst(a: Session, b: Session): number {
  return Number(b.pinned) - Number(a.pinned);
}

/** Compares times of the API and ids: the order of their characters is the one that is wanted, and quick. */
function before(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}

function newestFirst(a: Session, b: Session): number {
  return pinnedFirst(a, b) || before(b.created_at, a.created_at) || before(a.id, b.id);
}

/** Who needs a person first; of two with the same need the one that has waited longer. */
function neediestFirst(a: Session, b: Session): number {
  const frozenFirst = Number(isFrozen(b)) - Number(isFrozen(a));
  return pinnedFirst(a, b) || frozenFirst || rank(a.agent) - rank(b.agent) || before(a.agent.since, b.agent.since) || newestFirst(a, b);
}

export class Sessions {
  phase = $state<Phase>('loading');
  error = $state('');
  /** Why Incus does not answer; empty while it answers. Meanwhile the list holds what was seen last. */
  unreachable = $state('');
  /** The session that the person has before them, in this page; empty for none. */
  watched = $state('');
  /** Counts the checkpoints that were made while the page was open, and the times that comments changed, of whichever session. */
  reviewed = $state(0);
  creations = $state.raw<readonly Creation[]>([]);

  /** What shows one session hears nothing of the others. */
  readonly #snapshot = new SvelteMap<string, Session>();
  /** Changes that the person asked for and the server has not settled yet. */
  readonly #pending = new SvelteMap<string, SessionStatus>();
  /** The state of each session that this page has told the server as seen, with its numbers. */
  readonly #told = new Map<string, string>();
  /** The bell of each session that was last answered by a look, by its time. */
  readonly #seen = new Persisted<Record<string, string>>('seen-bells', {}, isTextRecord);
  readonly #numbers = new Persisted<Record<string, number>>('session-numbers', {}, isNumbers);
  /** The fetch that is under way, and the one that follows it for all who asked meanwhile. */
  #current: Promise<void> | null = null;
  #next: Promise<void> | null = null;
  /** The session that the following fetch is for; empty for all. */
  #nextId = '';
  #lastKey = 0;
  readonly #once = new Once();

  readonly list: readonly Session[] = $derived(
    [...this.#snapshot.values()].map((session) => this.#shown(session)).sort(newestFirst),
  );

  /** `unreachable` as a sentence. Only the words of other programs need to be told whom they are about. */
  readonly away: string = $derived.by(() => {
    if (!this.unreachable) return '';
    const reason = this.unreachable.replace(/[.:]?$/, '.');
    return reason.includes('Incus') ? reason : `Incus does not answer: ${reason}`;
  });

  readonly groups: readonly Group[] = $derived.by(() => {
    const members: Partial<Record<Group['key'], Session[]>> = {};
    for (const session of this.list) (members[this.#groupOf(session)] ??= []).push(session);
    members.attention?.sort(neediestFirst);
    return GROUPS.flatMap(({ key, title, stale }) => {
      const found = members[key];
      return found ? [{ key, title: (this.unreachable && stale) || title, sessions: found }] : [];
    });
  });

  /** Those that wait for the person. */
  readonly waiting: readonly Session[] = $derived(this.groups.find(({ key }) => key === 'attention')?.sessions ?? []);

  /** In the order in which the rail shows them. */
  readonly ordered: readonly Session[] = $derived(this.groups.flatMap((group) => group.sessions));

  /** What leads to a session with Alt: 1 to 9, 0 for none. It stays the same however the list is sorted. */
  numberOf(id: string): number {
    return this.#numbers.current[id] ?? 0;
  }

  /** The session of a number. */
  numbered(number: number): Session | undefined {
    const found = Object.entries(this.#numbers.current).find(([, one]) => one === number);
    return found && this.get(found[0]);
  }

  /** The groups for a list on the page. While it is held, each row stays where it is `shown`, unless its session is gone. */
  arranged(shown: readonly Group[], held: boolean): readonly Group[] {
    if (!held) return this.groups;
    const left = shown.map((group) => ({ ...group, sessions: group.sessions.filter(({ id }) => this.get(id)) }));
    const filled = left.filter((group) => group.sessions.length > 0);
    return filled.length > 0 ? filled : this.groups;
  }

  get(id: string): Session | undefined {
    const session = this.#snapshot.get(id);
    return session && this.#shown(session);
  }

  of(workspace: string): Session[] {
    return this.list.filter((session) => session.workspace === workspace);
  }

  /**
   * The person looks at a session. The server keeps that for all their pages; a bell, which is all that a tool without a
   * known state has, is kept in this browser.
   */
  seen(id: string): void {
    const session = this.#snapshot.get(id);
    if (!session) return;
    const { agent } = session;
    const state = `${agent.state} ${agent.turn} ${agent.question}`;
    if (calls(agent) && !agent.seen && this.#told.get(id) !== state) {
      this.#told.set(id, state);
      // If that fails, the next look at it tells again.
      void api.seen(id).catch(() => this.#told.delete(id));
    }
    if (!this.#rings(session)) return;
    const known = Object.entries(this.#seen.current).filter(([other]) => this.#snapshot.has(other));
    this.#seen.current = { ...Object.fromEntries(known), [id]: session.rang_at };
  }

  /** What the server says of a session's tool. */
  agentIs(id: string, agent: Agent): void {
    const session = this.#snapshot.get(id);
    if (session) this.#put({ ...session, agent });
    // A list that is on its way may be older than this.
    if (this.#current) void this.refresh(id);
  }

  /** The server says that a session's bell rang, and that nothing else of it has changed. */
  rang(id: string, rang_at: string): void {
    const session = this.#snapshot.get(id);
    if (session) this.#put({ ...session, rang_at });
    if (this.#current) void this.refresh(id);
  }

  /** The server says how much a session has changed since its start. */
  changesAre(id: string, changes: Session['changes']): void {
    const session = this.#snapshot.get(id);
    if (session) this.#put({ ...session, changes });
    if (this.#current) void this.refresh(id);
  }

  /**
   * Whether a person is needed: a seal came off, the tool waits, has failed, is stuck or done, or rang its bell and nobody
   * has looked.
   */
  needsAttention(session: Session): boolean {
    if (session.unreachable_since) return false;
    return isFrozen(session) || (session.status === 'running' && (calls(session.agent) || this.#rings(session)));
  }

  /** The next session that needs a person, after the one at hand; undefined if there is no other one. */
  next(id: string): Session | undefined {
    const at = this.waiting.findIndex((session) => session.id === id);
    return [...this.waiting.slice(at + 1), ...this.waiting.slice(0, Math.max(0, at))][0];
  }

  /**
   * Fetches the list, or with an id that session alone: as a list, since one that is gone must be no 404, which Chromium
   * would report as an error of the page.
   */
  refresh(id = ''): Promise<void> {
    if (!this.#current) return (this.#current = this.#load(id).finally(() => (this.#current = null)));
    this.#nextId = this.#next && this.#nextId !== id ? '' : id;
    // The answer that is on its way may be older than what this was called for.
    return (this.#next ??= this.#current.then(() => {
      this.#next = null;
      return this.refresh(this.#nextId);
    }));
  }

  /** Creates a session; a failure stays in `creations` until it is dismissed. It is never tried twice by itself. */
  async create(request: NewSessionRequest): Promise<Session | null> {
    this.#lastKey += 1;
    const creation: Creation = { key: this.#lastKey, request, startedAt: Date.now(), error: null, asks: false };
    this.creations = [...this.creations, creation];
    try {
      const session = await this.#once.send('', JSON.stringify(request), (key) => api.createSession(request, key));
      takeBirths([session]);
      this.#put(session);
      this.#number();
      this.dismiss(creation.key);
      return session;
    } catch (error) {
      this.creations = this.creations.map((other) =>
        other.key === creation.key ? { ...creation, error: sentence(error), asks: asksToAccept(error) } : other,
      );
      return null;
    }
  }

  dismiss(key: number): void {
    this.creations = this.creations.filter((creation) => creation.key !== key);
  }

  /** Changes what a person may set: its name, whether it is pinned or muted. */
  async change(id: string, change: SessionChange): Promise<void> {
    this.#put(await api.changeSession(id, change));
  }

  stop(id: string): Promise<void> {
    return this.#act(id, 'stopping', () => api.stopSession(id));
  }

  async resume(id: string, accepts = false): Promise<void> {
    await this.#act(id, 'starting', () => api.resumeSession(id, accepts));
  }

  /** What a person decides about a session of which a seal came off. */
  async resolve(id: string, action: 'continue' | 'stop'): Promise<void> {
    await this.#act(id, action === 'stop' ? 'stopping' : 'starting', () => api.resolveProtection(id, action));
  }

  /** The result is where the server has copied what only the container had. */
  delete(id: string): Promise<readonly string[]> {
    return this.#act(id, 'stopping', () => api.deleteSession(id));
  }

  /** The moment that a session's age counts from: when its state began, its bell if it has no other, else its start. */
  countsFrom(session: Session): string | undefined {
    const { agent, rang_at, started_at, created_at } = session;
    if (isFrozen(session)) return brokenSince(session) || started_at;
    const began = this.#rings(session) && !calls(agent) ? rang_at : agent.since;
    return began || started_at || created_at;
  }

  /** Its terminal's bell rang, and nobody has looked since. Of a tool whose state is known the bell tells nothing new. */
  #rings({ id, status, rang_at, agent }: Session): boolean {
    const blind = agent.state === 'unknown' || agent.state === 'starting' || agent.state === 'ended';
    return status === 'running' && blind && !!rang_at && this.#seen.current[id] !== rang_at;
  }

  /** A session as it is shown: with what was asked for already, and never `done` under the person's eyes. */
  #shown(session: Session): Session {
    const status = this.#pending.get(session.id) ?? session.status;
    const isSeen = session.agent.state === 'done' && session.id === this.watched;
    if (status === session.status && !isSeen) return session;
    return { ...session, status, agent: isSeen ? { ...session.agent, state: 'idle' } : session.agent };
  }

  #groupOf(session: Session): Group['key'] {
    if (session.unreachable_since && session.status !== 'stopped') return 'away';
    if (this.needsAttention(session)) return 'attention';
    if (session.status === 'running') return GROUP_OF[session.agent.state] ?? 'idle';
    return session.status === 'starting' ? 'working' : session.status;
  }

  async #load(wanted: string): Promise<void> {
    // What was missed while the list could not be had is in all of it only.
    const id = this.phase === 'ready' && !this.error && !this.unreachable ? wanted : '';
    try {
      this.#take(await api.sessions(id), id);
      this.phase = 'ready';
      this.error = this.unreachable = '';
    } catch (error) {
      this.error = sentence(error);
      if (error instanceof ApiError && error.status === 503) this.unreachable = this.error;
      if (this.phase === 'loading') this.phase = 'error';
    }
  }

  async #act<Answer>(id: string, meanwhile: SessionStatus, request: () => Promise<Answer>): Promise<Answer> {
    this.#pending.set(id, meanwhile);
    try {
      return await request();
    } finally {
      await this.refresh();
      this.#pending.delete(id);
    }
  }

  /** Takes in all sessions, or what there is of the one with an id. */
  #take(found: readonly Session[], id: string): void {
    const ids = new Set(found.map((one) => one.id));
    for (const known of id ? [id] : [...this.#snapshot.keys()]) if (!ids.has(known)) this.#snapshot.delete(known);
    takeBirths(found);
    for (const session of found) this.#put(session);
    this.#number();
  }

  /**
   * Gives free numbers to sessions without one, first in the list first. Where none is free, one that runs gets that of the
   * last one that does not: nobody types into that by mistake.
   */
  #number(): void {
    const numbers = new Map(Object.entries(this.#numbers.current).filter(([id]) => this.#snapshot.has(id)));
    const isIdle = ({ status, pinned }: Session): boolean => status === 'stopped' && !pinned;
    const taken = new Set(numbers.values());
    const free = Array.from({ length: MOST_NUMBERS }, (_, index) => index + 1).filter((number) => !taken.has(number));
    for (const session of this.ordered) {
      if (numbers.has(session.id)) continue;
      let number = free.shift();
      if (number === undefined && !isIdle(session)) {
        const last = this.ordered.findLast((one) => isIdle(one) && numbers.has(one.id));
        number = last && numbers.get(last.id);
        if (last) numbers.delete(last.id);
      }
      if (number !== undefined) numbers.set(session.id, number);
    }
    const next = Object.fromEntries(numbers);
    if (JSON.stringify(next) !== JSON.stringify(this.#numbers.current)) this.#numbers.current = next;
  }

  /** An equal one stays, so that nothing that shows it is drawn anew. */
  #put(session: Session): void {
    const known = this.#snapshot.get(session.id);
    if (JSON.stringify(known) !== JSON.stringify(session)) this.#snapshot.set(session.id, session);
  }
}

export const sessions = new Sessions();
