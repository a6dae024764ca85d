/** Files that the person gives to the tool: they go into the container, and their paths into the prompt. */
import { api, sentence } from '../../lib/api';
import { bytes } from '../../lib/format';
import { ui } from '../../state/ui.svelte';

/** What the server takes, as openapi.json says. */
const MOST_BYTES = 40 * 1024 * 1024;
/** Uploads at the same time; the others wait. */
const AT_ONCE = 2;

export interface Upload {
  readonly key: number;
  readonly file: File;
  readonly sent: number;
  readonly stop: () => void;
}

export class Uploads {
  /** Those that are under way or wait. */
  all = $state.raw<readonly Upload[]>([]);
  readonly #id: () => string;
  readonly #onPath: (path: string) => void;
  #lastKey = 0;
  #running = 0;
  #waiting: (() => void)[] = [];

  /** `onPath` is told the path of each file in the container. */
  constructor(id: () => string, onPath: (path: string) => void) {
    this.#id = id;
    this.#onPath = onPath;
  }

  add(files: Iterable<File>): void {
    for (const file of files) {
      if (file.size > MOST_BYTES)
        ui.toast(`${file.name} was not uploaded: it is ${bytes(file.size)}, and a file for the agent may have 40 MiB at most.`, 'error');
      else void this.#send(file);
    }
  }

  dispose(): void {
    for (const upload of this.all) upload.stop();
  }

  async #send(file: File): Promise<void> {
    this.#lastKey += 1;
    const key = this.#lastKey;
    const stopping = new AbortController();
    this.all = [...this.all, { key, file, sent: 0, stop: () => stopping.abort() }];
    try {
      if (this.#running >= AT_ONCE) await new Promise<void>((go) => this.#waiting.push(go));
      this.#running += 1;
      try {
        this.#onPath(await api.upload(this.#id(), file, (sent) => this.#progress(key, sent), stopping.signal));
      } finally {
        this.#running -= 1;
        this.#waiting.shift()?.();
      }
    } catch (error) {
      if (stopping.signal.aborted) return;
      const action = { label: 'Try again', run: () => void this.#send(file) };
      ui.toast(`${file.name} was not uploaded. ${sentence(error)}`, 'error', action);
    } finally {
      this.all = this.all.filter((one) => one.key !== key);
    }
  }

  #progress(key: number, sent: number): void {
    this.all = this.all.map((one) => (one.key === key ? { ...one, sent } : one));
  }
}

/**
 * The files that the clipboard holds, unless it holds text beside them: cells of a spreadsheet come as a picture too. A file
 * manager puts the file's name there as text.
 */
export function pastedFiles(data: DataTransfer | null): File[] {
  const files = [...(data?.files ?? [])];
  const text = data?.getData('text/plain').trim() ?? '';
  return text === '' || files.some(({ name }) => text.endsWith(name)) ? files : [];
}
