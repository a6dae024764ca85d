/** The state of all that floats above the places: dialogs, questions and toasts. */
import type { HistoryEntry } from '../lib/types';

export interface Toast {
  key: number;
  text: string;
  /** A note goes by itself; the others stay until they are dismissed. */
  kind: 'note' | 'lasting' | 'error';
  action?: { label: string; run: () => void };
}

export interface Question {
  title: string;
  text: string;
  /** Below the text. */
  lines: readonly string[];
  action: string;
  answer: (yes: boolean) => void;
}

/** The project and conversation that the New session dialog was opened for. */
export interface NewSessionStart {
  /** Empty: choose one. */
  workspace: string;
  /** A past run whose saved conversation goes on in the new container. */
  conversation: HistoryEntry | null;
}

const NOTE_MS = 4_000;
/** A note that offers something has to be read, thought about and reached (WCAG 2.2.1). */
const OFFER_MS = 10_000;
const MOST_NOTES = 4;
/** Errors stay until they are dismissed, and the list scrolls. A container could make many. */
const MOST_ERRORS = 30;

export class Ui {
  palette = $state(false);
  shortcuts = $state(false);
  /** The phone's sheet with the rail. */
  sheet = $state(false);
  newProject = $state(false);
  newSession = $state.raw<NewSessionStart | null>(null);
  /** The session that the dialog about it shows; empty for none. */
  about = $state('');
  /** The session whose plan is shown in full; empty for none. */
  plan = $state('');
  /** The session of which the page says why its state is known; empty for none. */
  why = $state('');
  /** The session whose log is shown; empty for none. */
  log = $state('');
  /** The session whose snapshots are shown; empty for none. */
  snapshots = $state('');
  /** The terminal whose text is shown to be selected. */
  text = $state.raw<{ id: string; shell: boolean } | null>(null);
  question = $state.raw<Question | null>(null);
  toasts = $state.raw<readonly Toast[]>([]);
  /** How many menus are open: below them no row may move or go. */
  menus = $state(0);
  /** The sidebar shows the sessions' numbers, for Alt+1..9. */
  numbers = $state(false);
  /** Whether a dialog has the keys. */
  readonly covered: boolean = $derived(
    this.palette ||
      this.shortcuts ||
      this.sheet ||
      this.newProject ||
      this.about !== '' ||
      this.plan !== '' ||
      this.why !== '' ||
      this.log !== '' ||
      this.snapshots !== '' ||
      this.text !== null ||
      this.newSession !== null ||
      this.question !== null,
  );
  #lastKey = 0;
  /** How many milliseconds each note still has. */
  readonly #left = new Map<number, number>();
  #held = false;
  #runsSince = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  startSession(workspace = '', conversation: HistoryEntry | null = null): void {
    this.newSession = { workspace, conversation };
  }

  /** Asks before something that cannot be undone. */
  confirm(title: string, text: string, action: string, lines: readonly string[] = []): Promise<boolean> {
    return new Promise((resolve) => {
      this.question = {
        title,
        text,
        lines,
        action,
        answer: (yes) => {
          this.question = null;
          resolve(yes);
        },
      };
    });
  }

  /** Shows a message once. */
  toast(text: string, kind: Toast['kind'] = 'note', action?: Toast['action']): void {
    this.#lastKey += 1;
    const toast: Toast = { key: this.#lastKey, text, kind, ...(action ? { action } : {}) };
    const all = [...this.toasts.filter((other) => other.text !== text), toast];
    const newest = (of: Toast['kind'], most: number): readonly Toast[] => all.filter((one) => one.kind === of).slice(-most);
    const kept = new Set([...newest('note', MOST_NOTES), ...newest('lasting', MOST_NOTES), ...newest('error', MOST_ERRORS)]);
    this.toasts = all.filter((one) => kept.has(one));
    if (kind !== 'note') return;
    this.#stop();
    this.#left.set(toast.key, action ? OFFER_MS : NOTE_MS);
    this.#run();
  }

  dismiss(key: number): void {
    this.#left.delete(key);
    this.toasts = this.toasts.filter((toast) => toast.key !== key);
  }

  /** Notes go on to go, or stay while the person is at them or cannot see them. */
  holdNotes(held: boolean): void {
    this.#stop();
    this.#held = held;
    this.#run();
  }

  /** Lets the time of each note run that is not held. */
  #run(): void {
    this.#stop();
    const [next] = [...this.#left.values()].sort((a, b) => a - b);
    if (this.#held || next === undefined) return;
    this.#runsSince = Date.now();
    this.#timer = setTimeout(() => this.#run(), next);
  }

  /** Takes off the time that has run, and lets those go whose time is over. */
  #stop(): void {
    if (this.#timer === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const passed = Date.now() - this.#runsSince;
    for (const [key, left] of [...this.#left]) {
      if (left > passed) this.#left.set(key, left - passed);
      else this.dismiss(key);
    }
  }
}

export const ui = new Ui();
