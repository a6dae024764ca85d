/** The person's choices for this browser. */
import { TERMINAL_PALETTE_KEYS, type TerminalPaletteKey } from '../lib/keys';
import { isBoolean } from '../lib/kinds';
import { Persisted } from '../lib/persisted.svelte';

export const THEMES = ['system', 'light', 'dark'] as const;
export type Theme = (typeof THEMES)[number];

export const FONT_SIZES = { least: 9, most: 24, normal: 13 };

const isTheme = (value: unknown): value is Theme => THEMES.includes(value as Theme);
/** A name, and nothing that could end it in a style sheet. */
const isFontFamily = (value: unknown): value is string => typeof value === 'string' && /^[^\p{Cc}"\\{}<>;]{0,100}$/u.test(value);
const isFontSize = (value: unknown): value is number =>
  typeof value === 'number' && value >= FONT_SIZES.least && value <= FONT_SIZES.most;

const isPaletteKey = (value: unknown): value is TerminalPaletteKey => TERMINAL_PALETTE_KEYS.includes(value as TerminalPaletteKey);

/** As in the other programs of the system: a selection is a copy on X11 and Wayland only. */
const SELECTION_IS_COPIED = /Linux|BSD/.test(navigator.platform);

class Preferences {
  readonly #theme = new Persisted<Theme>('theme', 'system', isTheme);
  readonly #fontSize = new Persisted<number>('font-size', FONT_SIZES.normal, isFontSize);
  readonly #fontFamily = new Persisted<string>('font-family', '', isFontFamily);
  readonly #copyOnSelect = new Persisted<boolean>('copy-on-select', SELECTION_IS_COPIED, isBoolean);
  readonly #terminalPaletteKey = new Persisted<TerminalPaletteKey>('terminal-palette-key', 'Alt 0', isPaletteKey);
  readonly #singleKeys = new Persisted<boolean>('single-keys', true, isBoolean);
  readonly #enterSends = new Persisted<boolean>('enter-sends', false, isBoolean);
  readonly #screenReader = new Persisted<boolean>('screen-reader', false, isBoolean);
  readonly #railFolded = new Persisted<boolean>('rail-folded', false, isBoolean);
  readonly #composerFolded = new Persisted<boolean>('composer-folded', false, isBoolean);
  readonly #system = window.matchMedia('(prefers-color-scheme: dark)');
  #systemDark = $state(this.#system.matches);
  readonly #wide = window.matchMedia('(min-width: 768px)');
  #isWide = $state(this.#wide.matches);

  constructor() {
    this.#system.addEventListener('change', (event) => (this.#systemDark = event.matches));
    this.#wide.addEventListener('change', (event) => (this.#isWide = event.matches));
  }

  get theme(): Theme {
    return this.#theme.current;
  }

  set theme(theme: Theme) {
    this.#theme.current = theme;
  }

  /** Whether the page is dark: by the person's choice, or the system's. */
  get dark(): boolean {
    return this.theme === 'system' ? this.#systemDark : this.theme === 'dark';
  }

  get fontSize(): number {
    return this.#fontSize.current;
  }

  set fontSize(size: number) {
    if (isFontSize(size)) this.#fontSize.current = size;
  }

  /** A font family for terminals and the editor; empty for the stack of the page. */
  get fontFamily(): string {
    return this.#fontFamily.current;
  }

  set fontFamily(family: string) {
    if (isFontFamily(family)) this.#fontFamily.current = family.trim();
  }

  get copyOnSelect(): boolean {
    return this.#copyOnSelect.current;
  }

  set copyOnSelect(value: boolean) {
    this.#copyOnSelect.current = value;
  }

  /** The key that opens the command palette while a terminal has the focus. */
  get terminalPaletteKey(): TerminalPaletteKey {
    return this.#terminalPaletteKey.current;
  }

  set terminalPaletteKey(key: TerminalPaletteKey) {
    this.#terminalPaletteKey.current = key;
  }

  /** Whether a letter alone is a shortcut of the page (WCAG 2.1.4). */
  get singleKeys(): boolean {
    return this.#singleKeys.current;
  }

  set singleKeys(value: boolean) {
    this.#singleKeys.current = value;
  }

  /** Whether Enter sends what is in the box for prompts, and Shift+Enter breaks the line. */
  get enterSends(): boolean {
    return this.#enterSends.current;
  }

  set enterSends(value: boolean) {
    this.#enterSends.current = value;
  }

  /** Whether terminals are prepared for a screen reader. */
  get screenReader(): boolean {
    return this.#screenReader.current;
  }

  set screenReader(value: boolean) {
    this.#screenReader.current = value;
  }

  get railFolded(): boolean {
    return this.#railFolded.current;
  }

  set railFolded(value: boolean) {
    this.#railFolded.current = value;
  }

  /** Whether the window is as narrow as a phone's. */
  get narrow(): boolean {
    return !this.#isWide;
  }

  /** As in ComposerSlot: in a narrow window the box for prompts is the main way to write, and stays. */
  get composerFolds(): boolean {
    return this.#isWide;
  }

  /** Whether the box for prompts is away, where there is a keyboard to type into the terminal. */
  get composerFolded(): boolean {
    return this.#composerFolded.current;
  }

  set composerFolded(value: boolean) {
    this.#composerFolded.current = value;
  }

  /** The other of light and dark: the system's again if that is it. */
  flip(): void {
    const dark = !this.dark;
    this.theme = dark === this.#systemDark ? 'system' : dark ? 'dark' : 'light';
  }

  /** Shows the theme on the page; call it inside an effect. */
  apply(): void {
    const root = document.documentElement;
    if (this.theme === 'system') delete root.dataset['theme'];
    else root.dataset['theme'] = this.theme;
  }
}

export const preferences = new Preferences();
