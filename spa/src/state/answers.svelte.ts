/** The answers of a person to the tools' questions: each question is answered once, wherever its buttons stand. */
import { questionOf } from '../lib/agent';
import { api, sentence } from '../lib/api';
import { label, toolName } from '../lib/format';
import type { Answer, AnswerResult, Session } from '../lib/types';
import { sessions } from './sessions.svelte';
import { ui } from './ui.svelte';

/** What became of the answer to a question. */
interface Given {
  question: string;
  result: 'sending' | AnswerResult;
}

/** Milliseconds after which a question that is still open may be answered again, whatever became of the answer. */
export const STILL_OPEN = 8_000;

class Answers {
  #given = $state.raw<ReadonlyMap<string, Given>>(new Map());

  /** What became of the answer to the question that is open; undefined while it has none. */
  outcome({ id, agent }: Session): Given['result'] | undefined {
    const given = this.#given.get(id);
    return given?.question === questionOf(agent) ? given.result : undefined;
  }

  /** Whether an answer is on its way, or the tool has just taken it and is about to go on. */
  isGiven(session: Session): boolean {
    const outcome = this.outcome(session);
    return outcome === 'sending' || outcome === 'answered';
  }

  /** Says whether the tool took the answer. */
  async give(session: Session, answer: Answer): Promise<boolean> {
    if (this.isGiven(session)) return false;
    const { id, agent } = session;
    const question = questionOf(agent);
    this.#became(id, { question, result: 'sending' });
    try {
      const { result } = await api.answer(id, { ...answer, question: agent.text, number: agent.question });
      this.#became(id, { question, result });
      if (result === 'answered') setTimeout(() => this.#isStillOpen(id, question), STILL_OPEN);
      else ui.toast(`${label(session)}: ${unconfirmed(session)}`, 'error');
      return result === 'answered';
    } catch (error) {
      ui.toast(`${label(session)} was not answered. ${sentence(error)}`, 'error');
      this.#became(id, null);
      void sessions.refresh();
      return false;
    }
  }

  #isStillOpen(id: string, question: string): void {
    if (this.#given.get(id)?.question === question) this.#became(id, { question, result: 'unconfirmed' });
  }

  #became(id: string, given: Given | null): void {
    const next = new Map(this.#given);
    if (given) next.set(id, given);
    else next.delete(id);
    this.#given = next;
  }
}

/** What to do about an answer of which nothing shows that the tool took it. */
export function unconfirmed({ tool }: Session): string {
  return `Answer unconfirmed: it was typed, but ${toolName(tool)} may not have taken it. Look at the terminal.`;
}

export const answers = new Answers();
