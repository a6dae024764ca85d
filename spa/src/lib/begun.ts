/** What start.js began before the page's script was there: the event stream, and the first requests. Each is taken once. */

/** A stream that is open or about to be, and what came over it before somebody listened, oldest first. */
export interface BegunStream {
  readonly socket: WebSocket;
  readonly heard: readonly string[];
}

/** A GET that is under way, and the way to give it up. */
interface BegunAnswer {
  readonly answer: Promise<Response>;
  readonly controller: AbortController;
}

interface Begun {
  stream?: BegunStream;
  readonly answers: Record<string, BegunAnswer>;
}

const page = globalThis as { begun?: Begun };

/** Null if there is none, or none any more. The answers go with a stream that was lost: nobody told what changed since. */
export function takeStream(): BegunStream | null {
  const stream = page.begun?.stream;
  if (!stream) return null;
  delete page.begun?.stream;
  if (stream.socket.readyState <= WebSocket.OPEN) return stream;
  for (const { controller } of Object.values(page.begun?.answers ?? {})) controller.abort();
  delete page.begun;
  return null;
}

/**
 * The answer to a GET that is under way, which `signal` gives up. Chromium lets a request for an address wait for the one
 * before, so a lost request that nobody gives up would hold up every later one.
 */
export function takeAnswer(path: string, signal: AbortSignal): Promise<Response> | undefined {
  const answers = page.begun?.answers;
  const begun = answers?.[path];
  if (!answers || !begun) return undefined;
  Reflect.deleteProperty(answers, path);
  signal.addEventListener('abort', () => begun.controller.abort(signal.reason));
  return begun.answer;
}
