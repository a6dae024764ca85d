/** The commands that a tool takes in its prompt, and those that a project brings for it. */
import { filesApi } from '../../lib/api-files';

interface ToolCommands {
  readonly own: readonly (readonly [name: string, what: string])[];
  /** In the project; a file NAME.md is the command /NAME. Empty if the tool has none. */
  readonly folder: string;
}

const COMMANDS: Record<string, ToolCommands> = {
  claude: {
    own: [
      ['clear', 'Begin a new conversation'],
      ['compact', 'Shorten the conversation'],
      ['context', 'What fills the context'],
      ['cost', 'What it has cost'],
      ['init', 'Write CLAUDE.md'],
      ['memory', 'Edit the memory files'],
      ['model', 'Choose the model'],
      ['resume', 'Go on with another conversation'],
      ['review', 'Review a pull request'],
      ['rewind', 'Go back to an earlier point'],
      ['status', 'Version, model and account'],
      ['usage', 'Limits of the plan'],
    ],
    folder: '.claude/commands',
  },
  copilot: {
    own: [
      ['clear', 'Begin a new conversation'],
      ['compact', 'Shorten the conversation'],
      ['context', 'What fills the context'],
      ['model', 'Choose the model'],
      ['usage', 'What it has used'],
    ],
    folder: '',
  },
  opencode: {
    own: [
      ['compact', 'Shorten the conversation'],
      ['init', 'Write AGENTS.md'],
      ['models', 'Choose the model'],
      ['new', 'Begin a new conversation'],
      ['redo', 'Redo what was undone'],
      ['sessions', 'Go on with another conversation'],
      ['undo', 'Undo the last message'],
    ],
    folder: '.opencode/command',
  },
};

type Command = readonly [name: string, what: string];

/** The commands of a session's tool, and those of the project. */
export async function commandsOf({ id, tool }: { id: string; tool: string }): Promise<readonly Command[]> {
  const { own, folder } = COMMANDS[tool] ?? { own: [], folder: '' };
  if (!folder) return own;
  const files = await filesApi.directory(id, folder).then(
    ({ entries }) => entries,
    () => [],
  );
  const ofProject = files.filter(({ name }) => /^[\w-]+\.md$/.test(name)).map(({ name }): Command => [name.slice(0, -3), 'Of this project']);
  return [...own, ...ofProject];
}

/** Whether a text is a command of the tool: one line, which begins with one that there is. */
export async function isCommand(session: { id: string; tool: string }, text: string): Promise<boolean> {
  const name = /^\/([\w:-]+)(?: [^\n]*)?$/.exec(text.trim())?.[1];
  return name !== undefined && (await commandsOf(session)).some(([one]) => one === name);
}
