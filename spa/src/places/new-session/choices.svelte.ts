/** What a new session is to be. What differs from the configuration is kept for each project, and stands there again. */
import { isRecord } from '../../lib/kinds';
import { Persisted } from '../../lib/persisted.svelte';
import type { NetworkChange, NewSessionRequest } from '../../lib/types';
import { configuration } from '../../state/config.svelte';

/** As chosen for a project; what is left out is what is configured. */
export interface Kept {
  tool?: string;
  persistent?: boolean;
  nesting?: boolean;
  image?: string;
  profile?: string;
  onClone?: boolean;
  engine?: string;
  target?: string;
  mounted?: boolean;
  network?: NetworkChange;
  logins?: readonly string[];
}

const TYPES: Record<keyof Kept, string> = {
  tool: 'string',
  persistent: 'boolean',
  nesting: 'boolean',
  image: 'string',
  profile: 'string',
  onClone: 'boolean',
  engine: 'string',
  target: 'string',
  mounted: 'boolean',
  network: 'object',
  logins: 'object',
};

const MOST_PROJECTS = 200;

const isKept = (value: unknown): value is Kept =>
  isRecord(value) && Object.entries(value).every(([key, one]) => one !== null && typeof one === TYPES[key as keyof Kept]);
const isAllKept = (value: unknown): value is Record<string, Kept> => isRecord(value) && Object.values(value).every(isKept);

/** By the project's path; the one that was started last stands last. */
const kept = new Persisted<Record<string, Kept>>('session-choices', {}, isAllKept);

/** The project in which a session was started last; empty for none. */
export const lastProject = (): string => Object.keys(kept.current).at(-1) ?? '';

export class Choices {
  workspace = $state('');
  #chosen = $state.raw<Kept>({});
  /** What the clone starts from; empty for what is checked out. It is not kept: it is of this one session. */
  branch = $state('');

  readonly tool = $derived(this.#chosen.tool ?? configuration.defaultTool);
  readonly persistent = $derived(this.#chosen.persistent ?? configuration.current?.defaults.persistent ?? false);
  readonly nesting = $derived(this.#chosen.nesting ?? configuration.current?.security.nesting ?? false);
  readonly image = $derived(this.#chosen.image ?? '');
  readonly profile = $derived(this.#chosen.profile ?? '');
  readonly engine = $derived(this.#chosen.engine ?? '');
  readonly target = $derived(this.#chosen.target ?? '');
  readonly mounted = $derived(this.#chosen.mounted ?? false);
  readonly network = $derived(this.#chosen.network ?? {});
  readonly logins = $derived(this.#chosen.logins ?? configuration.current?.defaults.logins ?? []);
  readonly onClone = $derived(!this.engine && (this.#chosen.onClone ?? false));
  /** Nothing of this machine is mounted in it. Folders of this machine never are on an engine. */
  readonly mountless = $derived(this.engine ? !this.mounted : this.onClone && !configuration.current?.mounts.default.length);

  /** What differs under Options from what is configured, in a few words. */
  readonly told = $derived(
    [
      this.engine && `on ${this.engine}`,
      this.image,
      this.profile,
      this.persistent !== (configuration.current?.defaults.persistent ?? false) && (this.persistent ? 'persistent' : 'not persistent'),
      !this.mountless && this.#nests() !== undefined && (this.nesting ? 'nested containers' : 'no nested containers'),
      this.#borrows() && (this.logins.length > 0 ? `logins: ${this.logins.join(', ')}` : 'no logins'),
      this.network.network && `network: ${this.network.network}`,
      this.onClone && this.branch.trim() && `from ${this.branch.trim()}`,
    ].filter((word) => typeof word === 'string' && word !== ''),
  );

  /** Takes a project, with what was chosen for it last. */
  open(workspace: string, chosen: Kept = kept.current[workspace] ?? {}): void {
    this.workspace = workspace;
    this.branch = '';
    this.#chosen = chosen;
  }

  set(change: Kept): void {
    this.#chosen = { ...this.#chosen, ...change };
  }

  /** Remembers what was chosen, for the next session in this project. */
  keep(): void {
    const others = Object.entries(kept.current).filter(([path]) => path !== this.workspace);
    kept.current = Object.fromEntries([...others.slice(1 - MOST_PROJECTS), [this.workspace, this.#chosen]]);
  }

  /** `words` is the first prompt, `resume` the conversation that goes on; empty for none. */
  request(words: string, resume: string): NewSessionRequest {
    const { image, profile, engine, target, workspace, tool, persistent } = this;
    const mode = engine ? (this.mounted ? 'mount' : '') : this.onClone && !resume ? 'clone' : '';
    const branch = mode === 'clone' ? this.branch.trim() : '';
    const chosen = Object.entries({ prompt: words, image, profile, resume, engine, target, mode, branch }).filter(([, value]) => value);
    const nesting = this.mountless ? undefined : this.#nests();
    return { workspace, tool, persistent, ...(nesting === undefined ? {} : { nesting }), ...this.#borrows(), ...this.network, ...Object.fromEntries(chosen) };
  }

  /** The logins that it borrows, where those are not the configured ones. */
  #borrows(): { logins: string[] } | undefined {
    const usual = configuration.current?.defaults.logins ?? [];
    const same = usual.length === this.logins.length && this.logins.every((name) => usual.includes(name));
    return same ? undefined : { logins: [...this.logins] };
  }

  /** Whether containers are to run in it, where that is not what is configured. */
  #nests(): boolean | undefined {
    return this.nesting === (configuration.current?.security.nesting ?? false) ? undefined : this.nesting;
  }
}
