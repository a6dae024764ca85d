/** One terminal on the page: xterm.js, its wire to the server, and what passes between them and the person. */
import { writeClipboard } from '../../lib/clipboard';
import { isTouch } from '../../lib/touch';
import { label } from '../../lib/format';
import { isPaletteKey } from '../../lib/keys';
import { load } from '../../lib/load';
import { presence } from '../../lib/presence.svelte';
import type { Session } from '../../lib/types';
import { copy } from '../../state/actions';
import { preferences } from '../../state/preferences.svelte';
import { ui } from '../../state/ui.svelte';
import { Past } from './past.svelte';
import type { Look, TerminalHost, TerminalParts } from './terminal';
import { type TerminalKind, TerminalLink } from './terminal-link.svelte';
import { pastedFiles, Uploads } from './uploads.svelte';

const ARROWS: ReadonlySet<string> = new Set(['\x1b[A', '\x1b[B', '\x1b[C', '\x1b[D']);

/** How long after Ctrl V the browser may take to tell of the paste. */
const PASTE_MS = 100;

/** A program that copies more often only offers it. */
const COPY_EVERY_MS = 1_000;

/** The control character of a key under Ctrl: `c` becomes ^C. */
export function control(text: string): string {
  const code = text.toUpperCase().charCodeAt(0);
  return text.length === 1 && code >= 0x40 && code < 0x60 ? String.fromCharCode(code & 0x1f) : text;
}

export class TerminalView {
  /** Null until the terminal has been opened. xterm.js itself lives outside of reactivity. */
  parts = $state.raw<TerminalParts | null>(null);
  /** Null until it has connected once. */
  link = $state.raw<TerminalLink | null>(null);
  /** The past that the person looks back at; null for the present. tmux keeps the lines that left the screen. */
  past = $state.raw<Past | null>(null);
  searching = $state(false);
  /** What was typed for a search whose field is not there yet; null from when it is. */
  early: string | null = null;
  /** The key bar's Ctrl is held for the next key. */
  ctrl = $state(false);
  failed = $state(false);
  /** Address of the link under the pointer; a hostile program can show any text for it. */
  hoveredLink = $state('');
  readonly uploads = new Uploads(
    () => this.session().id,
    (path) => this.#givePath(path),
  );
  /** When the program was let write the clipboard. */
  #copiedAt = 0;
  /** Ctrl V was pressed: the program gets it unless the clipboard turns out to hold files. */
  #ctrlV: ReturnType<typeof setTimeout> | undefined;

  readonly host: TerminalHost = {
    onCopied: (text) => void this.#copyFromProgram(text),
    onSelected: (text) => {
      if (preferences.copyOnSelect) void writeClipboard(text).catch(() => undefined);
    },
    onSelectionCopy: (text) => void copy(text),
    onSearch: () => this.search(),
    onCtrlV: () => (this.#ctrlV = setTimeout(() => this.#typeCtrlV(), PASTE_MS)),
    isPaletteKey: (event) => isPaletteKey(event, preferences.terminalPaletteKey, true),
    onLinkHover: (address) => (this.hoveredLink = address),
    onLink: (address) => this.#follow(address),
  };

  constructor(
    readonly session: () => Session,
    readonly kind: TerminalKind,
  ) {}

  /** Shows the terminal in the element, which must be visible: its size becomes the program's. */
  async open(element: HTMLElement, look: () => Look): Promise<void> {
    try {
      const { openTerminal } = await load(() => import('./terminal'));
      if (this.parts) return;
      const parts = openTerminal(element, look(), {
        ...this.host,
        onOverscroll: (lines) => this.lookBack(lines),
      });
      parts.terminal.onData((text) => this.#typed(text));
      parts.terminal.onBinary((data) => this.link?.typeBinary(data));
      parts.terminal.onResize(({ cols, rows }) => this.link?.resize(cols, rows));
      this.parts = parts;
    } catch {
      this.failed = true;
    }
  }

  /** Connects if it is not connected: at first, and when a session runs again. */
  connect(): void {
    if (!this.parts) return;
    if (!this.link) this.link = new TerminalLink(this.session().id, this.kind, this.parts.screen, () => this.#tellLoss());
    else if (this.link.socket.state === 'closed') this.link.reconnect();
  }

  /** Nobody sees it: its output waits at the server, and it gives back what it holds of the GPU. */
  rest(resting: boolean): void {
    this.link?.rest(resting);
    this.parts?.rest(resting);
  }

  /** A key of the key bar; the arrows in the form that the program asked for, which full-screen ones do. */
  press(text: string): void {
    const application = this.parts?.terminal.modes.applicationCursorKeysMode ?? false;
    this.link?.type(application && ARROWS.has(text) ? text.replace('[', 'O') : text);
    this.ctrl = false;
  }

  /** Ctrl of the key bar: it goes with the next key, which the phone's keyboard types. */
  holdCtrl(): void {
    this.ctrl = !this.ctrl;
    if (this.ctrl) this.parts?.terminal.focus();
  }

  /** A paste into the terminal, before xterm.js sees it: files are uploaded. */
  paste(event: ClipboardEvent): void {
    const files = pastedFiles(event.clipboardData);
    if (files.length > 0) this.uploads.add(files);
    if (this.#ctrlV !== undefined) {
      clearTimeout(this.#ctrlV);
      if (files.length === 0) this.#typeCtrlV();
    } else if (files.length === 0) return;
    this.#ctrlV = undefined;
    event.preventDefault();
    event.stopPropagation();
  }

  search(): void {
    this.lookBack(0);
    if (!this.searching) this.early = '';
    this.searching = true;
  }

  closeSearch(): void {
    this.searching = false;
    this.focus();
  }

  /** Gives the terminal the keys. By touch only the person does that, with a tap: it raises the keyboard. */
  focus(): void {
    if (!isTouch()) (this.past?.parts ?? this.parts)?.terminal.focus();
  }

  /** The past is there and lies over the present: what has the keys there has them here. */
  takeOver(): void {
    if (document.activeElement?.closest('.xterm')) this.past?.parts?.terminal.focus();
    else this.focus();
  }

  /** Scrolls to the past, by lines below zero from the screen. The other way leads back from a past that is not there yet. */
  lookBack(lines: number): void {
    if (lines > 0 && !this.past) return;
    this.past ??= new Past(this.session().id, this.kind, () => this.lookAhead());
    this.past.scroll(lines);
  }

  /** Back to the present, which gets the keys, unless they are elsewhere on the page. */
  lookAhead(): void {
    if (!this.past) return;
    const active = document.activeElement;
    const elsewhere = active !== document.body && !active?.closest('.pane');
    // Where a keyboard is up, it stays up.
    const isTyping = active?.closest('.xterm') !== null;
    this.past.dispose();
    this.past = null;
    this.searching = false;
    if (isTyping) this.parts?.terminal.focus();
    else if (!elsewhere) this.focus();
  }

  dispose(): void {
    clearTimeout(this.#ctrlV);
    this.uploads.dispose();
    this.past?.dispose();
    this.link?.dispose();
    this.parts?.terminal.dispose();
  }

  #typed(text: string): void {
    if (this.searching && this.early !== null) {
      if (text >= ' ') this.early += text;
      else this.closeSearch(); // as Escape does in the field
      return;
    }
    if (this.link?.socket.state === 'closed' && text === '\r') this.link.reconnect();
    else this.link?.type(this.ctrl ? control(text) : text);
    // A terminal that is taken away still reports that it lost the focus, at a time when no state may change.
    if (this.ctrl) this.ctrl = false;
  }

  #typeCtrlV(): void {
    this.#ctrlV = undefined;
    this.#typed(control('v'));
  }

  /** Puts a path into the prompt, in brackets where the program knows them, and without Enter. */
  #givePath(path: string): void {
    if (this.link?.socket.state === 'open') this.parts?.terminal.paste(`${path} `);
    else ui.toast(`The file is in the container: ${path}`, 'note', { label: 'Copy', run: () => void copy(path) });
  }

  /** Opens a link. A finger has seen no address before: the text of a link can be any. */
  #follow(address: string): void {
    const run = (): void => void window.open(address, '_blank', 'noopener,noreferrer');
    if (!address) return;
    if (isTouch()) ui.toast(address, 'lasting', { label: 'Open', run });
    else run();
  }

  #tellLoss(): void {
    ui.toast(`${label(this.session())} was not connected for a while: what was typed last may not have arrived.`);
  }

  /** Whether what the person types goes to this program: only they may mean it when the clipboard changes. */
  #hasKeys(): boolean {
    const field = this.parts?.terminal.textarea;
    return presence.here && field !== undefined && document.activeElement === field;
  }

  /** A program of another session could replace what the person is about to paste elsewhere: it only may offer its text. */
  async #copyFromProgram(text: string): Promise<void> {
    const who = label(this.session());
    const now = Date.now();
    try {
      if (!this.#hasKeys() || now - this.#copiedAt < COPY_EVERY_MS) throw new Error('not wanted now');
      this.#copiedAt = now;
      await writeClipboard(text);
      ui.toast(`${who} copied ${text.length} characters to the clipboard.`);
    } catch {
      ui.toast(`${who} wants to copy ${text.length} characters.`, 'lasting', { label: 'Copy', run: () => void copy(text) });
    }
  }
}
