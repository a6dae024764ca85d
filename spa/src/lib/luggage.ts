/**
 * What this browser keeps for the page, on its way to another port: another origin, which finds nothing of it. It goes in
 * the fragment of the address, which no server sees. Any page can link here with a fragment of its own; so only what is
 * listed here is taken, only where there is nothing yet, and each value is looked at by its reader as ever. What a person
 * has written stays behind: a foreign page could else put its own words into the box for prompts.
 */
const NAMES = [
  'theme',
  'font-size',
  'font-family',
  'copy-on-select',
  'terminal-palette-key',
  'rail-folded',
  'composer-folded',
  'recent-sessions',
  'commands-used',
  'seen-bells',
  'pane-beside',
  'width-rail',
  'width-list',
  'width-beside',
  'width-preview',
  'diff-layout',
  'diff-ignore-space',
  'screen-reader',
  'single-keys',
  'enter-sends',
] as const;
const MARK = '#luggage=';
const MOST_CHARACTERS = 16 * 1024;

/** The address, with all that is to be kept. */
export function pack(url: URL): URL {
  const kept: Record<string, string> = {};
  try {
    for (const name of NAMES) {
      const text = localStorage.getItem(`clincus.${name}`);
      if (text !== null) kept[name] = text;
    }
  } catch {
    return url; // Storage is forbidden: there is nothing.
  }
  const hash = MARK + encodeURIComponent(JSON.stringify(kept));
  if (hash.length <= MOST_CHARACTERS) url.hash = hash;
  return url;
}

/** Takes over what the address brings, and removes it from there. */
export function unpack(): void {
  if (!location.hash.startsWith(MARK)) return;
  const { hash } = location;
  history.replaceState(history.state, '', location.pathname + location.search);
  if (hash.length > MOST_CHARACTERS) return;
  try {
    const brought: unknown = JSON.parse(decodeURIComponent(hash.slice(MARK.length)));
    for (const name of NAMES) {
      const text: unknown = Object.getOwnPropertyDescriptor(brought, name)?.value;
      const key = `clincus.${name}`;
      if (typeof text === 'string' && localStorage.getItem(key) === null) localStorage.setItem(key, text);
    }
  } catch {
    // The fragment is not ours, or storage is forbidden: the page begins with its defaults.
  }
}
