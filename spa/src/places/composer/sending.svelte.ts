/** What a text would be for a session now, a prompt or an answer, and whether it can be sent. */
import { questionOf } from '../../lib/agent';
import { toolName } from '../../lib/format';
import { isFrozen } from '../../lib/protection';
import type { Session } from '../../lib/types';
import { answers } from '../../state/answers.svelte';
import { connection } from '../../state/connection.svelte';
import { prompts } from '../../state/prompts.svelte';
import { isCommand } from './commands';

export class Sending {
  readonly #session: () => Session;
  readonly #now = $derived.by(() => this.#session());
  readonly #agent = $derived(this.#now.agent);
  readonly #isRunning = $derived(this.#now.status === 'running');
  readonly isBusy = $derived(this.#isRunning && (this.#agent.state === 'working' || this.#agent.state === 'stuck'));
  readonly isAsked = $derived(this.#isRunning && this.#agent.state === 'waiting');
  readonly #takesText = $derived(!this.isAsked || this.#agent.reason === 'question');
  /** What the draft would answer; empty for a prompt. */
  readonly question = $derived(this.isAsked ? questionOf(this.#agent) : '');
  readonly isSending = $derived(prompts.outcome(this.#now.id)?.result === 'sending' || answers.isGiven(this.#now));
  readonly action = $derived(this.isAsked ? 'Answer' : this.isBusy ? 'Queue' : 'Send');
  readonly placeholder = $derived(
    this.isAsked && this.#takesText ? 'Answer in your own words' : this.isBusy ? 'Queue a follow-up' : `Ask ${toolName(this.#now.tool)}`,
  );

  /** Why nothing can be sent now; empty if it can. */
  readonly hindrance = $derived.by(() => {
    const hindered = connection.hinders(this.#now);
    if (hindered) return hindered;
    if (!this.#isRunning) return `the session is ${isFrozen(this.#now) ? 'frozen' : this.#now.paused ? 'paused' : this.#now.status}`;
    if (this.#agent.state === 'ended') return 'no tool runs: resume the session';
    return this.#takesText ? '' : 'it waits for another answer first';
  });

  constructor(session: () => Session) {
    this.#session = session;
  }

  async send(): Promise<void> {
    const session = this.#session();
    const { id } = session;
    const text = prompts.draft(id);
    if (this.hindrance || !text.trim() || this.isSending || !prompts.isMeant(id, this.question)) return;
    if (!this.isAsked) await prompts.send(id, text.startsWith('/') && (await isCommand(session, text)));
    else if ((await answers.give(session, { text })) && prompts.draft(id) === text) prompts.write(id, '');
  }
}
