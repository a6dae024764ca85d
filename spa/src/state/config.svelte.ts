/** The effective configuration, where each value comes from, and the state of the machine. */
import { api, sentence } from '../lib/api';
import { pack } from '../lib/luggage';
import type { Config, ConfigSources, Health, HealthCheck, Image } from '../lib/types';
import type { Phase } from './sessions.svelte';
import { ui } from './ui.svelte';

const NO_SOURCES: ConfigSources = { files: [], origins: {}, warnings: [], error: null };

/** This page's address at another port, with what this browser keeps for it. */
export function samePlaceAt(port: number): URL {
  return pack(Object.assign(new URL(location.href), { port: String(port) }));
}

export class Configuration {
  phase = $state<Phase>('loading');
  error = $state('');
  /** How the file on disk is broken, while the last good configuration stays in force; the event stream tells. */
  broken = $state('');
  current = $state.raw<Config | null>(null);
  sources = $state.raw<ConfigSources>(NO_SOURCES);
  tools = $state.raw<readonly string[]>(['claude', 'copilot', 'opencode']);
  images = $state.raw<readonly Image[]>([]);
  health = $state.raw<Health | null>(null);
  /** Why the state of the machine could not be had the last time. */
  healthError = $state('');
  /** The port that this page asked for. */
  #asked = 0;
  /** A place has shown where the values come from. */
  #tellsSources = false;

  readonly profiles: readonly string[] = $derived(Object.keys(this.current?.profiles ?? {}));

  readonly defaultTool: string = $derived(this.current?.tool.name ?? 'claude');

  /** Failed checks that keep a first session from starting. Without Incus all others fail too, so Incus stands alone. */
  readonly obstacles: readonly HealthCheck[] = $derived.by(() => {
    const failed = Object.values(this.health?.checks ?? {}).filter((check) => check.status === 'failed');
    return failed.filter((check) => check.name === 'incus' || failed.every((other) => other.name !== 'incus'));
  });

  async refresh(): Promise<void> {
    try {
      const [current] = await Promise.all([api.config(), this.#tellsSources && this.#refreshSources()]);
      if (this.current) this.#follow(this.current.dashboard.port, current.dashboard.port);
      this.current = current;
      this.phase = 'ready';
      this.error = '';
    } catch (error) {
      this.error = sentence(error);
      if (this.phase === 'loading') this.phase = 'error';
    }
  }

  /** Fetches where the values come from, when it is shown for the first time; from then on it is kept up to date. */
  tellSources(): void {
    if (this.#tellsSources) return;
    this.#tellsSources = true;
    void this.#refreshSources();
  }

  async refreshHealth(): Promise<void> {
    try {
      this.health = await api.health();
      this.healthError = '';
    } catch (error) {
      this.healthError = sentence(error);
    }
  }

  /** Fetches the choices of the New session dialog. A choice that cannot be fetched keeps its last value. */
  async refreshChoices(): Promise<void> {
    const [, images] = await Promise.allSettled([this.refreshTools(), api.images()]);
    if (images.status === 'fulfilled') this.images = images.value;
  }

  /** The same of the tools alone. */
  async refreshTools(): Promise<void> {
    this.tools = await api.tools().catch(() => this.tools);
  }

  /** Lets the server listen on another port. It answers there before this returns; the page is to follow. */
  async moveTo(port: number): Promise<void> {
    this.#asked = port;
    await api.updateConfig({ port });
  }

  /** Whether this page finds the server at its configured port, not through a tunnel or proxy; 0 is any port. */
  isAt(port: number): boolean {
    return port === 0 || Number(location.port) === port;
  }

  async #refreshSources(): Promise<void> {
    this.sources = await api.configSources().catch(() => NO_SOURCES);
  }

  /** The port was changed elsewhere. Somebody else may listen there now, so the page goes only if the person wants it. */
  #follow(before: number, port: number): void {
    if (port === before || port === this.#asked || !this.isAt(before)) return;
    const run = (): void => location.replace(samePlaceAt(port));
    ui.toast(`The dashboard moved to port ${port}.`, 'error', { label: 'Go there', run });
  }
}

export const configuration = new Configuration();
