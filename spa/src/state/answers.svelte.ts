/** The answers of a person to the tools' questions: each question is answered once, wherever its buttons stand. */
import { questionOf } from '../lib/agent';
import { api, sentence } from '../lib/api';
import { label } from '../lib/format';
import type { Answer, Session } from '../lib/types';
import { sessions } from './sessions.svelte';
import { ui } from './ui.svelte';

class Answers {
  /** The question of each session that was answered, until the tool is known to go on. */
  #given = $state.raw<ReadonlyMap<string, string>>(new Map());

  /** Whether the question that is open was answered here already. */
  isGiven({ id, agent }: Session): boolean {
    return this.#given.has(id) && this.#given.get(id) === questionOf(agent);
  }

  /** Says whether the answer went in. */
  async give(session: Session, answer: Answer): Promise<boolean> {
    if (this.isGiven(session)) return false;
    const { id, agent } = session;
    this.#given = new Map(this.#given).set(id, questionOf(agent));
    try {
      await api.answer(id, { ...answer, question: agent.text });
      return true;
    } catch (error) {
      ui.toast(`${label(session)} was not answered. ${sentence(error)}`, 'error');
      const left = new Map(this.#given);
      left.delete(id);
      this.#given = left;
      void sessions.refresh();
      return false;
    }
  }
}

export const answers = new Answers();
