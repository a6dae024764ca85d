/** Prompts that a person gives again and again, by the project: kept in this browser. */
import { isRecord, isTexts } from '../lib/kinds';
import { Persisted } from '../lib/persisted.svelte';

type All = Record<string, readonly string[]>;

const MOST_PROJECTS = 100;
const MOST = 30;

const isAll = (value: unknown): value is All => isRecord(value) && Object.values(value).every(isTexts);

class Templates {
  readonly #all = new Persisted<All>('prompt-templates', {}, isAll);

  /** The newest first. */
  of(project: string): readonly string[] {
    return this.#all.current[project] ?? [];
  }

  add(project: string, text: string): void {
    const words = text.trim();
    if (words) this.#put(project, [words, ...this.of(project).filter((one) => one !== words)].slice(0, MOST));
  }

  remove(project: string, text: string): void {
    this.#put(
      project,
      this.of(project).filter((one) => one !== text),
    );
  }

  #put(project: string, texts: readonly string[]): void {
    const others = Object.entries(this.#all.current).filter(([path]) => path !== project);
    this.#all.current = Object.fromEntries([...others.slice(1 - MOST_PROJECTS), ...(texts.length ? [[project, texts] as const] : [])]);
  }
}

export const templates = new Templates();
