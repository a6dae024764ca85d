/** Builds the xterm.js terminal with its add-ons. A chunk of its own: the list paints without it. */
import '@xterm/xterm/css/xterm.css';

import { FitAddon } from '@xterm/addon-fit';
import { WebLinksAddon } from '@xterm/addon-web-links';
import { type ITerminalAddon, type ITheme, Terminal } from '@xterm/xterm';
import { tick } from 'svelte';

import { spelledOut } from '../../lib/address';
import { isJump, isMac, sessionSwitch } from '../../lib/keys';
import { preferences } from '../../state/preferences.svelte';
import { screenOf } from './glyphs';
import { matchColours } from './match-colours';
import type { Screen } from './terminal-link.svelte';
import { isAtEnd, type Overscroll, scrollByTouch } from './touch-scroll';

export const SCROLLBACK_LINES = 10_000;
const FRAMES_BEFORE_GPU = 240;
const SCROLLBAR_PX = 10;

/** Backgrounds equal --surface in tokens.css, so that the pane has no frame. */
const DARK: ITheme = {
  background: '#15161a',
  foreground: '#dfe2ea',
  cursor: '#9db2ff',
  cursorAccent: '#15161a',
  selectionBackground: '#3a4a78',
  selectionInactiveBackground: '#31384d',
  scrollbarSliderBackground: '#7b829440',
  scrollbarSliderHoverBackground: '#7b829470',
  scrollbarSliderActiveBackground: '#7b829499',
  overviewRulerBorder: '#15161a',
  black: '#2a2d36',
  red: '#f2777a',
  green: '#8fce7e',
  yellow: '#e5c46b',
  blue: '#7aa8f7',
  magenta: '#c99bf0',
  cyan: '#67cfd6',
  white: '#c8ccd6',
  brightBlack: '#7b8294',
  brightRed: '#ff9a9a',
  brightGreen: '#aee39e',
  brightYellow: '#f5da8c',
  brightBlue: '#9cc0ff',
  brightMagenta: '#ddb6ff',
  brightCyan: '#8ee5ea',
  brightWhite: '#f4f6fa',
};

const LIGHT: ITheme = {
  background: '#ffffff',
  foreground: '#23262f',
  cursor: '#3b55c8',
  cursorAccent: '#ffffff',
  selectionBackground: '#c5d2fb',
  selectionInactiveBackground: '#dfe3ec',
  scrollbarSliderBackground: '#62697940',
  scrollbarSliderHoverBackground: '#62697970',
  scrollbarSliderActiveBackground: '#62697999',
  overviewRulerBorder: '#ffffff',
  black: '#1d2029',
  red: '#c0262d',
  green: '#1a7a34',
  yellow: '#8a6100',
  blue: '#2257c5',
  magenta: '#8a3bb5',
  cyan: '#0a7480',
  white: '#d5d9e2',
  brightBlack: '#626979',
  brightRed: '#d13a3f',
  brightGreen: '#23833f',
  brightYellow: '#946a08',
  brightBlue: '#3169dc',
  brightMagenta: '#9c4cc9',
  brightCyan: '#12808c',
  brightWhite: '#f3f5f9',
};

export interface Look {
  dark: boolean;
  fontSize: number;
  /** Empty for the stack of the page. */
  fontFamily: string;
  /** The search is open: what is selected is the match that it has reached. */
  searching: boolean;
  /** A screen reader is to read it. xterm.js then keeps a second copy of the screen, which costs time. */
  read: boolean;
  /** What a screen reader calls it. */
  label: string;
}

export interface TerminalHost {
  /** Text that the program puts on the clipboard (OSC 52). The program can never read the clipboard. */
  onCopied: (text: string) => void;
  /** The mouse has selected something. */
  onSelected: (text: string) => void;
  /** The copy key was pressed. */
  onSelectionCopy: (text: string) => void;
  onSearch: () => void;
  /** Ctrl V was pressed where it pastes nothing into a terminal. The browser's own paste follows, if it has one. */
  onCtrlV: () => void;
  /** A key that the page takes although the terminal has the focus. */
  isPaletteKey: (event: KeyboardEvent) => boolean;
  onLinkHover: (address: string) => void;
  /** A link was chosen; empty for one that is none of the web. */
  onLink: (address: string) => void;
  /** The past is elsewhere: it is scrolled to beyond what the terminal holds. */
  onOverscroll?: Overscroll;
}

export interface TerminalParts {
  readonly terminal: Terminal;
  /** Where output is written to. */
  readonly screen: Screen;
  /** Takes the size of its element. */
  fit: () => void;
  /** Takes on another look, and the size that comes with it. */
  show: (look: Look) => void;
  /** Gives back what it holds of the GPU while nobody sees it, or takes it again. */
  rest: (resting: boolean) => void;
}

/** Shows the terminal in the element. The caller disposes of it. */
export function openTerminal(element: HTMLElement, look: Look, host: TerminalHost): TerminalParts {
  const links = linkHandler(host);
  const terminal = new Terminal({
    allowProposedApi: true,
    scrollback: SCROLLBACK_LINES,
    overviewRuler: { width: SCROLLBAR_PX },
    cursorBlink: false,
    macOptionIsMeta: true,
    rightClickSelectsWord: true,
    drawBoldTextInBrightColors: false,
    linkHandler: { activate: links.activate, hover: links.hover, leave: links.leave, allowNonHttpProtocols: false },
    ...optionsFor(look),
  });
  const fitting = new FitAddon();
  terminal.loadAddon(fitting);
  terminal.loadAddon(new WebLinksAddon(links.activate, { hover: links.hover, leave: links.leave }));
  takeCopies(terminal, host.onCopied);
  terminal.attachCustomKeyEventHandler((event) => takeKey(event, terminal, host));
  terminal.attachCustomWheelEventHandler((event) => takeWheel(event, terminal, host.onOverscroll));
  terminal.open(element);
  nameField(terminal, look.label);
  terminal.element?.addEventListener('mouseup', () => {
    if (terminal.hasSelection()) host.onSelected(terminal.getSelection());
  });
  fitting.fit();
  scrollByTouch(terminal, host.onOverscroll);
  const gpu = accelerateWhenBusy(terminal);
  return {
    terminal,
    screen: screenOf(terminal),
    fit: () => fitting.fit(),
    show: (next) => {
      Object.assign(terminal.options, optionsFor(next));
      nameField(terminal, next.label);
      fitting.fit();
    },
    rest: (resting) => (resting ? gpu.leave() : gpu.comeBack()),
  };
}

/**
 * Changes to the GPU renderer once the terminal has drawn so much that it pays for the add-on's bytes. Only where there is
 * a real GPU: on a software one the DOM renderer is faster.
 */
function accelerateWhenBusy(terminal: Terminal): { leave: () => void; comeBack: () => void } {
  let frames = 0;
  let webgl: ITerminalAddon | undefined;
  let resting = false;
  const leave = (): void => {
    resting = true;
    webgl?.dispose();
    webgl = undefined;
  };
  const accelerate = async (): Promise<void> => {
    try {
      const { WebglAddon } = await import('@xterm/addon-webgl');
      if (resting || webgl) return;
      const addon = new WebglAddon();
      // The GPU was taken away, as after sleep or by too many terminals: xterm.js draws with the DOM again.
      addon.onContextLoss(() => {
        addon.dispose();
        if (webgl === addon) webgl = undefined;
      });
      terminal.loadAddon(addon);
      webgl = addon;
    } catch {
      // The DOM renderer stays.
    }
  };
  const comeBack = (): void => {
    resting = false;
    if (frames >= FRAMES_BEFORE_GPU && !webgl && hasGpu()) void accelerate();
  };
  const counting = terminal.onRender(() => {
    frames += 1;
    if (frames < FRAMES_BEFORE_GPU) return;
    counting.dispose();
    if (hasGpu()) void accelerate();
  });
  return { leave, comeBack };
}

function nameField(terminal: Terminal, name: string): void {
  terminal.textarea?.setAttribute('aria-label', name);
}

function optionsFor(look: Look) {
  const stack = getComputedStyle(document.documentElement).getPropertyValue('--mono');
  const theme = look.dark ? DARK : LIGHT;
  const { activeMatchBackground = '' } = matchColours(look.dark);
  return {
    theme: look.searching ? { ...theme, selectionInactiveBackground: activeMatchBackground } : theme,
    // Programs that assume a dark screen stay legible on the light one.
    minimumContrastRatio: look.dark ? 3 : 4.5,
    screenReaderMode: look.read,
    fontSize: look.fontSize,
    fontFamily: look.fontFamily ? `${JSON.stringify(look.fontFamily)}, ${stack}` : stack,
  };
}

function hasGpu(): boolean {
  const gl = document.createElement('canvas').getContext('webgl2');
  if (!gl) return false;
  const names = gl.getExtension('WEBGL_debug_renderer_info');
  const renderer = names ? String(gl.getParameter(names.UNMASKED_RENDERER_WEBGL)) : '';
  gl.getExtension('WEBGL_lose_context')?.loseContext();
  return !/swiftshader|llvmpipe|software|basic render/i.test(renderer);
}

function linkHandler({ onLinkHover, onLink }: TerminalHost) {
  return {
    activate: (_event: MouseEvent, address: string): void => onLink(spelledOut(address)),
    hover: (_event: MouseEvent, address: string): void => onLinkHover(spelledOut(address)),
    leave: (): void => onLinkHover(''),
  };
}

/** The program puts text on the clipboard (OSC 52). Its request to read gets an empty answer. */
function takeCopies(terminal: Terminal, onCopied: (text: string) => void): void {
  terminal.parser.registerOscHandler(52, (data) => {
    const content = data.slice(data.indexOf(';') + 1);
    if (content === '?') terminal.input('\x1b]52;c;\x07', false);
    else {
      const text = fromBase64(content);
      if (text) onCopied(text);
    }
    return true;
  });
}

/** Empty for what is no text in base64. */
function fromBase64(encoded: string): string {
  try {
    const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return '';
  }
}

function scrollTo(terminal: Terminal, end: 'Home' | 'End', beyond?: Overscroll): void {
  const lines = end === 'Home' ? -SCROLLBACK_LINES : SCROLLBACK_LINES;
  if (beyond && isAtEnd(terminal, lines)) beyond(lines);
  else terminal.scrollLines(lines);
}

/** False for a wheel that is not the terminal's: on a screen without a past xterm.js would make arrow keys of it. */
function takeWheel(event: WheelEvent, terminal: Terminal, beyond?: Overscroll): boolean {
  const direction = Math.sign(event.deltaY);
  if (!beyond || !direction || event.ctrlKey || terminal.modes.mouseTrackingMode !== 'none') return true;
  if (!isAtEnd(terminal, direction)) return true;
  const height = (terminal.element?.clientHeight ?? 0) / terminal.rows || 1;
  const lines = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / height : event.deltaY;
  beyond(direction * Math.max(1, Math.round(Math.abs(lines))));
  return false;
}

const PAGES: Readonly<Record<string, number>> = { PageUp: -1, PageDown: 1 };

/** All keys are the terminal's but few; one of these gives them to the page's tabs, from where Tab reaches the rest. */
function leave(terminal: Terminal): void {
  terminal.element?.closest('.session')?.querySelector<HTMLElement>('nav [aria-current]')?.focus();
}

/** Goes to the box for prompts below the terminal. */
async function goToPrompt(terminal: Terminal): Promise<void> {
  preferences.composerFolded = false;
  await tick();
  terminal.element?.closest('.composed')?.querySelector<HTMLElement>('.composer textarea')?.focus();
}

/** False for the keys that are not the program's. */
function takeKey(event: KeyboardEvent, terminal: Terminal, host: TerminalHost): boolean {
  if (host.isPaletteKey(event) || isJump(event) || sessionSwitch(event) !== null) return false;
  const page = event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey ? PAGES[event.code] : undefined;
  if (page && host.onOverscroll && isAtEnd(terminal, page)) {
    if (event.type === 'keydown') host.onOverscroll(page * (terminal.rows - 1));
    return false;
  }
  if (!isMac && event.code === 'KeyV' && event.ctrlKey && !event.shiftKey && !event.altKey && !event.metaKey) {
    if (event.type === 'keydown') host.onCtrlV();
    return false;
  }
  const chord = isMac ? event.metaKey && !event.ctrlKey : event.ctrlKey && event.shiftKey;
  if (!chord || event.altKey) return true;
  switch (event.code) {
    case 'KeyC':
      event.preventDefault();
      if (event.type === 'keydown' && terminal.hasSelection()) host.onSelectionCopy(terminal.getSelection());
      return false;
    case 'KeyF':
      event.preventDefault();
      if (event.type === 'keydown') host.onSearch();
      return false;
    case 'Home':
    case 'End':
      if (event.type === 'keydown') scrollTo(terminal, event.code, host.onOverscroll);
      return false;
    case 'ArrowUp':
      if (event.type === 'keydown') leave(terminal);
      return false;
    case 'ArrowDown':
      if (event.type === 'keydown') void goToPrompt(terminal);
      return false;
    case 'KeyV':
      // The browser's own paste follows, and xterm.js brackets it.
      return false;
    default:
      return true;
  }
}
