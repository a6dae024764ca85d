// Runs before the first paint, while the page's own script is still on its way.

// A chosen theme never flashes. The key is the one of state/preferences.svelte.ts.
try {
  const chosen = JSON.parse(localStorage.getItem('clincus.theme') ?? '"system"');
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that forbids storage, or a value that is not ours: the system's theme it is.
}

// What the place needs beside the page's script: a pattern of its address, and its scripts. The build fills this in.
/** @type {[string, ...string[]][]} */
const PLACES = [];

for (const [pattern, ...scripts] of PLACES) {
  if (!new RegExp(pattern).test(location.pathname)) continue;
  for (const href of scripts) document.head.append(Object.assign(document.createElement('link'), { rel: 'modulepreload', href }));
}

// The page's script keeps the thread busy for a while: what the stream says at its start would wait for that, and so would
// all that is asked for then. So it begins once the stream is open, or after this time.
const PATIENCE_MS = 200;
/** The address of that script. The build fills this in. */
const PAGE = '';

const page = Object.assign(document.createElement('script'), { type: 'module' });
const begin = () => {
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', begin);
  else if (!page.isConnected) document.head.append(Object.assign(page, { src: PAGE }));
};
setTimeout(begin, PATIENCE_MS);

// The event stream, and what is asked for once it is open: nothing falls between. lib/begun.ts takes them over.
{
  const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/ws/events`, 'clincus.events.v1');
  const begun = { stream: { socket, heard: [] }, answers: {} };
  const { heard } = begun.stream;
  socket.onmessage = (event) => heard.push(event.data);
  socket.addEventListener('open', () => {
    const projects = /^\/sessions\//.test(location.pathname) ? [] : ['/api/workspaces'];
    for (const path of ['/api/sessions', ...projects, '/api/config']) {
      const controller = new AbortController();
      const answer = fetch(path, { cache: 'no-cache', signal: controller.signal });
      answer.catch(() => undefined); // the page's script handles it when it takes the answer over
      begun.answers[path] = { answer, controller };
    }
    begin();
  });
  globalThis.begun = begun;
}
