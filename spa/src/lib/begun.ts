/** What start.js began before the page's script was there: the event stream, and the first requests. Each is taken once. */

/** A stream that is open or about to be, and what came over it before somebody listened, oldest first. */
export interface BegunStream {
  readonly socket: WebSocket;
  readonly heard: readonly string[];
}

interface Begun {
  stream?: BegunStream;
  readonly answers: Record<string, Promise<Response>>;
}

const page = globalThis as { begun?: Begun };

/** Null if there is none, or none any more. The answers go with a stream that was lost: nobody told what changed since. */
export function takeStream(): BegunStream | null {
  const stream = page.begun?.stream;
  if (!stream) return null;
  delete page.begun?.stream;
  if (stream.socket.readyState <= WebSocket.OPEN) return stream;
  delete page.begun;
  return null;
}

/** The answer to a GET that is under way. */
export function takeAnswer(path: string): Promise<Response> | undefined {
  const answers = page.begun?.answers;
  const answer = answers?.[path];
  if (answers) Reflect.deleteProperty(answers, path);
  return answer;
}
