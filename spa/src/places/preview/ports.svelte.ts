/** What listens in one session's container, looked at while somebody looks, and what the preview shows of it. */
import { api, ApiError } from '../../lib/api';
import type { Port, Session } from '../../lib/types';

/** Each look is a command in the container. */
const PERIOD_MS = 5_000;
/** The first look waits until the terminal is there, and none is taken for a glance. */
const FIRST_MS = 5_000;

export class Ports {
  list = $state.raw<readonly Port[]>([]);
  /** Something has listened: the place of the chips stays from then on, and a server that restarts moves nothing. */
  known = $state(false);
  /** The port in the preview pane; 0 for none. */
  shown = $state(0);
  /** This server, or where the session runs, cannot tell. */
  #unable = false;

  constructor(readonly id: string) {}

  async look(): Promise<void> {
    try {
      this.list = (await api.ports(this.id)).toSorted((a, b) => a.port - b.port);
      this.known ||= this.list.length > 0;
    } catch (error) {
      this.#unable = error instanceof ApiError && [404, 501].includes(error.status);
    }
  }

  /** Looks again and again while `watched` gives a session that runs; call it in a component. */
  keepLooking(watched: () => Session | undefined): void {
    const runs = $derived(watched()?.status === 'running');

    $effect(() => {
      if (!runs) return;
      let timer = 0;
      const look = async (): Promise<void> => {
        if (document.visibilityState === 'visible') await this.look();
        if (timer >= 0 && !this.#unable) timer = window.setTimeout(() => void look(), PERIOD_MS);
      };
      timer = window.setTimeout(() => void look(), FIRST_MS);
      return () => {
        clearTimeout(timer);
        timer = -1;
      };
    });
  }

  /** The session has stopped, and nothing listens any more. */
  forget(): void {
    this.list = [];
    this.shown = 0;
  }
}
