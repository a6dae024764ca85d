/** The one place that talks HTTP to the server. Calls that only a lazy place makes are in a file of their own beside it. */
import { takeAnswer } from './begun';
import { AGAIN_MS, pause } from './load';
import type {
  AgentExplained,
  Answer,
  AnswerResult,
  Config,
  ConfigChange,
  ConfigSources,
  Cost,
  Engine,
  Health,
  Image,
  LogEntry,
  MovedBranch,
  NewFolder,
  NewSessionRequest,
  Port,
  Prompt,
  PromptChange,
  PromptResult,
  Session,
  SessionChange,
  Unsaved,
  Usage,
  WorkspaceList,
} from './types';

/**
 * How long each try of a GET may take that the server answers out of its memory. After sleep or on another network the
 * browser still sends over connections that it kept, which lead nowhere: what goes unanswered is soon asked for over
 * another one.
 */
const READ_TIMEOUTS_MS = [2_500, 5_000, 12_500];
/** A GET that makes the server work is asked once: each further try would make it do the work again. */
const WORK_TIMEOUTS_MS = [30_000];
/** Creating or stopping a session is allowed to take as long as the server's own limits, and is never tried twice. */
export const WRITE_TIMEOUTS_MS = [300_000];
/** An answer that has begun may go on for this long. */
const BODY_TIMEOUT_MS = 60_000;

/** A failed request, with a sentence that can be shown as it is. `status` is 0 when no answer came. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
    this.name = 'ApiError';
  }
}

/** Turns whatever was thrown into a sentence for the person. */
export function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

let tellSignedOut: (signedOut: boolean) => void = () => undefined;

/** Calls `listener` after each answer: whether the server wants this browser to sign in. */
export function onSignedOut(listener: (signedOut: boolean) => void): void {
  tellSignedOut = listener;
}

const isTimeout = (error: unknown): boolean => error instanceof DOMException && error.name === 'TimeoutError';

/** Whether the server does the same for a request that comes twice as for one that comes once. */
const mayRepeat = (init: RequestInit): boolean => init.method === 'GET' || new Headers(init.headers).has('Idempotency-Key');

/**
 * One try. Each answer is asked for anew, and an unchanged one comes as 304 with no body. What the browser dropped on its
 * way, as Chromium does when a container adds a network interface, is sent again where it may be.
 */
async function ask(path: string, init: RequestInit, timeout: number): Promise<Response> {
  const controller = new AbortController();
  const limit = (ms: number) => setTimeout(() => controller.abort(new DOMException('Too late', 'TimeoutError')), ms);
  const timer = limit(timeout);
  const once = (): Promise<Response> => fetch(path, { ...init, signal: controller.signal, cache: 'no-cache' });
  try {
    const begun = init.method === 'GET' ? takeAnswer(path, controller.signal) : undefined;
    return await (begun ?? once());
  } catch (error) {
    if (!mayRepeat(init) || isTimeout(error)) throw error;
    await pause(AGAIN_MS);
    return await once();
  } finally {
    clearTimeout(timer);
    limit(BODY_TIMEOUT_MS);
  }
}

const UNREACHABLE = 'The Clincus server cannot be reached. Is “clincus serve” running?';
const LOST = 'No answer came: “clincus serve” does not run, or the network changed. Look whether it was done before you try again.';

export async function send(method: string, path: string, init: RequestInit, timeouts: readonly number[]): Promise<Response> {
  for (const timeout of timeouts) {
    try {
      const response = await ask(path, { ...init, method }, timeout);
      tellSignedOut(response.status === 401);
      if (!response.ok && response.status !== 304) throw new ApiError(await reason(response), response.status);
      return response;
    } catch (error) {
      if (error instanceof ApiError) throw error;
      if (!isTimeout(error)) throw new ApiError(mayRepeat({ ...init, method }) ? UNREACHABLE : LOST, 0);
    }
  }
  const seconds = timeouts.reduce((sum, timeout) => sum + timeout) / 1000;
  throw new ApiError(`The server did not answer within ${seconds} seconds.`, 0);
}

async function reason(response: Response): Promise<string> {
  try {
    const body: unknown = await response.json();
    if (typeof body === 'object' && body !== null && 'error' in body && typeof body.error === 'string')
      return body.error.charAt(0).toUpperCase() + body.error.slice(1);
  } catch {
    // The answer is no JSON: the status has to do.
  }
  return `The server answered ${response.status}.`;
}

/** A GET that the server answers out of its memory. */
export async function get<T>(path: string): Promise<T> {
  return (await (await send('GET', path, {}, READ_TIMEOUTS_MS)).json()) as T;
}

/** A GET that makes the server look: in a container, at Incus or in a long file. */
export function find(path: string, init: RequestInit = {}): Promise<Response> {
  return send('GET', path, init, WORK_TIMEOUTS_MS);
}

/** A request that changes something. It is sent twice only with an Idempotency-Key. */
export async function write<T>(method: string, path: string, body?: unknown, more: Record<string, string> = {}): Promise<T> {
  const init: RequestInit =
    body === undefined
      ? { headers: more }
      : { headers: { 'Content-Type': 'application/json', ...more }, body: JSON.stringify(body) };
  const response = await send(method, path, init, WRITE_TIMEOUTS_MS);
  return (response.status === 204 ? undefined : await response.json()) as T;
}

/** A request before which the server copies what would be lost: the paths of its copies. */
export async function writeKeeping(method: string, path: string): Promise<readonly string[]> {
  const response = await send(method, path, {}, WRITE_TIMEOUTS_MS);
  const kept = response.headers.get('Clincus-Kept') ?? '';
  return kept.split(', ').filter(Boolean).map(decodeURIComponent);
}

/** The address of a session. */
export const session = (id: string): string => `/api/sessions/${encodeURIComponent(id)}`;

export const api = {
  /** All sessions, or a list of the one with an id, which is empty when it is gone. */
  sessions: (id = '') => get<Session[]>(`/api/sessions${id && `?id=${encodeURIComponent(id)}`}`),
  createSession: (request: NewSessionRequest, key: string) => write<Session>('POST', '/api/sessions', request, { 'Idempotency-Key': key }),
  changeSession: (id: string, change: SessionChange) => write<Session>('PATCH', session(id), change),
  stopSession: (id: string) => write<undefined>('DELETE', session(id)),
  deleteSession: (id: string) => writeKeeping('DELETE', `${session(id)}?force=true`),
  agent: async (id: string) => (await (await find(`${session(id)}/agent`)).json()) as AgentExplained,
  seen: (id: string) => write<undefined>('POST', `${session(id)}/seen`),
  answer: (id: string, answer: Answer) => write<{ result: AnswerResult }>('POST', `${session(id)}/answer`, answer),
  /** Nothing once the tool shows that it has stopped. */
  interrupt: (id: string) => write<{ result: 'unconfirmed' } | undefined>('POST', `${session(id)}/interrupt`),
  prompts: (id: string) => get<Prompt[]>(`${session(id)}/prompts`),
  cancelPrompt: (id: string, prompt: string) => write<undefined>('DELETE', `${session(id)}/prompts/${encodeURIComponent(prompt)}`),

  changePrompt: (id: string, prompt: string, change: PromptChange) =>
    write<Prompt>('PATCH', `${session(id)}/prompts/${encodeURIComponent(prompt)}`, change),

  /** Types a prompt, or queues it. With the key of a try whose answer was lost nothing is done twice. */
  prompt: (id: string, text: string, key: string, command: boolean) =>
    write<{ prompt_id: string; result: PromptResult }>('POST', `${session(id)}/prompt`, command ? { text, command } : { text }, {
      'Idempotency-Key': key,
    }),
  /** `accepts` seals what is there now, also where it is not what was sealed at the last start. */
  resumeSession: (id: string, accepts = false) =>
    write<{ id: string; status: string }>('POST', `${session(id)}/resume`, accepts ? { accept_changes: true } : undefined),
  resolveProtection: (id: string, action: 'continue' | 'stop') => write<Session>('POST', `${session(id)}/protection/resolve`, { action }),

  workspaces: () => get<WorkspaceList>('/api/workspaces'),
  addRoot: (path: string) => write<WorkspaceList>('POST', '/api/workspaces', { path }),
  removeRoot: (path: string) => write<WorkspaceList>('DELETE', '/api/workspaces', { path }),
  createFolder: (folder: NewFolder) => write<{ path: string }>('POST', '/api/workspaces/folder', folder),

  config: () => get<Config>('/api/config'),
  configSources: () => get<ConfigSources>('/api/config/sources'),
  updateConfig: (change: ConfigChange) =>
    write<{ status: string }>('PUT', '/api/config', change),
  tools: () => get<string[]>('/api/tools'),
  engines: () => get<Engine[]>('/api/engines'),
  images: async () => (await (await find('/api/images')).json()) as Image[],
  health: async () => (await (await find('/api/health')).json()) as Health,

  /** `branch` is empty for the one by the session's name. */
  fetchCommits: (id: string, branch: string) => write<MovedBranch>('POST', `${session(id)}/fetch`, branch ? { branch } : {}),
  unsaved: async (id: string) => (await (await find(`${session(id)}/unsaved`)).json()) as Unsaved,
  cost: async (id: string) => (await (await find(`${session(id)}/cost`)).json()) as Cost,

  ports: async (id: string) => ((await (await find(`${session(id)}/ports`)).json()) as { ports: Port[] }).ports,
  log: async (id: string) => (await (await find(`${session(id)}/log`)).json()) as LogEntry[],
  usage: async (id: string) => (await (await find(`${session(id)}/usage`)).json()) as Usage,
  /** The screen of the tool's terminal or of the shell, and so many lines above it, as tmux keeps them. */
  async scrollback(id: string, lines: number, shell: boolean): Promise<string> {
    return (await find(`${session(id)}/scrollback?lines=${lines}${shell ? '&shell=true' : ''}`)).text();
  },

  /** Puts a file into the container and returns its path there. By XMLHttpRequest, since fetch tells no progress. */
  upload(id: string, file: File, onProgress: (sent: number) => void, signal: AbortSignal): Promise<string> {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const fail = (): void => reject(new ApiError('The Clincus server cannot be reached, or let go of the upload.', 0));
      request.open('POST', `${session(id)}/uploads?name=${encodeURIComponent(file.name)}`);
      request.setRequestHeader('Content-Type', file.type || 'application/octet-stream');
      request.upload.onprogress = ({ loaded }) => onProgress(loaded);
      request.onerror = request.onabort = fail;
      request.onload = () => {
        const { status } = request;
        if (status === 201) resolve((JSON.parse(request.responseText) as { path: string }).path);
        else void reason(new Response(request.responseText, { status: status || 500 })).then((text) => reject(new ApiError(text, status)));
      };
      if (signal.aborted) fail();
      else signal.addEventListener('abort', () => request.abort());
      if (!signal.aborted) request.send(file);
    });
  },
};
