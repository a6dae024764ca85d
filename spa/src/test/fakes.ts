/** Stand-ins for the browser in unit tests: a WebSocket that the test drives, and a server as a table of answers. */
import { vi } from 'vitest';

import type { Agent, Appeared, ChangedFile, SealedChange, Session } from '../lib/types';

/** What a tool does, with what a test says of it. */
export function someAgent(state: Agent['state'], fields: Partial<Agent> = {}): Agent {
  return { state, reason: '', text: '', options: [], since: '', source: 'screen', seen: false, turn: 1, question: 1, ...fields };
}

/** A session that runs, with what a test says of it. */
export function someSession(fields: Partial<Session> = {}): Session {
  return {
    id: 'a',
    workspace: '/w/my-app',
    tool: 'claude',
    slot: 1,
    status: 'running',
    persistent: false,
    paused: false,
    protection: 'locked',
    protection_note: '',
    warnings: [],
    session_id: '',
    created_at: '',
    started_at: '',
    image: '',
    profile: '',
    deadline: '',
    name: '',
    mode: 'mount',
    pinned: false,
    muted: false,
    nesting: false,
    appeared: 0,
    logins: [],
    engine: '',
    member: '',
    unreachable_since: '',
    rang_at: '',
    agent: someAgent('idle', { seen: true }),
    changes: null,
    network: { mode: 'open', refused: 0 },
    ...fields,
  };
}

/** A file that changed, with what a test says of it. */
export function someChange(fields: Partial<ChangedFile> = {}): ChangedFile {
  return { path: 'a.ts', old_path: '', status: 'M', added: 1, removed: 1, binary: false, touched: true, version: 'v1', runs: '', ...fields };
}

/** A seal that came off, with what a test says of it. */
export function someSealedChange(fields: Partial<SealedChange> = {}): SealedChange {
  const at = '2026-01-01T00:00:00Z';
  return { path: '/w/my-app/.git/config', what: 'replaced', by: 'container', at, restored: true, words: '', kind: 'seal', ...fields };
}

/** What appeared in a project, with what a test says of it. */
export function someAppeared(fields: Partial<Appeared> = {}): Appeared {
  const when = 'runs on your machine when you run git there';
  return { path: 'lib/.git', kind: 'repository', when, commands: [], truncated: false, at: '2026-01-01T00:00:00Z', ...fields };
}

export class FakeSocket {
  static readonly CONNECTING = 0;
  static readonly OPEN = 1;
  static all: FakeSocket[] = [];

  readonly sent: (string | Uint8Array)[] = [];
  /** How often it was asked whether it is still there. */
  pings = 0;
  /** Whether it says so. */
  answers = true;
  binaryType = 'blob';
  readyState = FakeSocket.CONNECTING;
  closed = false;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string | ArrayBuffer }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;

  constructor(
    readonly url: string,
    readonly protocol: string,
  ) {
    FakeSocket.all.push(this);
  }

  /** The newest one. */
  static get last(): FakeSocket {
    const socket = FakeSocket.all.at(-1);
    if (!socket) throw new Error('nothing has connected');
    return socket;
  }

  send(data: string | Uint8Array): void {
    if (data !== '{"type": "ping"}') {
      this.sent.push(data);
      return;
    }
    this.pings += 1;
    queueMicrotask(() => {
      if (this.answers && !this.closed) this.say('{"type": "pong"}');
    });
  }

  close(): void {
    this.closed = true;
    this.readyState = 3;
  }

  open(): void {
    this.readyState = FakeSocket.OPEN;
    this.onopen?.();
  }

  say(data: string | ArrayBuffer): void {
    this.onmessage?.({ data });
  }

  lose(code: number, reason = ''): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

/** Puts the fake in place of the browser's WebSocket, and gives the page an address and events. */
export function fakeBrowser(): void {
  FakeSocket.all = [];
  vi.stubGlobal('WebSocket', FakeSocket);
  vi.stubGlobal('location', { protocol: 'http:', host: '127.0.0.1:3000' });
  vi.stubGlobal('window', new EventTarget());
  vi.stubGlobal('document', Object.assign(new EventTarget(), { visibilityState: 'visible' }));
}

export interface Call {
  method: string;
  path: string;
  headers: Headers;
  body: unknown;
}

export type Reply = { status?: number; json?: unknown; text?: string; headers?: Record<string, string> } | Error;

/** Answers each request with what `answer` gives for it, and keeps the requests. */
export function fakeServer(answer: (call: Call) => Reply | Promise<Reply>): Call[] {
  const calls: Call[] = [];
  vi.stubGlobal('fetch', async (path: string, init: RequestInit) => {
    const call: Call = { method: init.method ?? 'GET', path, headers: new Headers(init.headers), body: init.body };
    calls.push(call);
    const reply = await answer(call);
    if (reply instanceof Error) throw reply;
    const { status = 200, json, text, headers = {} } = reply;
    const empty = status === 204 || status === 304;
    return new Response(empty ? null : (text ?? JSON.stringify(json ?? null)), { status, headers });
  });
  return calls;
}
