/** Numbers, times and paths as a person reads them. */

import type { Session } from './types';

const UNITS = ['B', 'KB', 'MB', 'GB', 'TB'];

export function bytes(count: number): string {
  let unit = 0;
  let value = count;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit] ?? ''}`;
}

/** A span in its largest unit: `9 s`, `4 m`, `2 h`, `3 d`. */
export function age(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** A span in its two largest units: `1 h 25 m`. */
export function duration(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} m ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} m` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Milliseconds since a timestamp of the server, or null if there is none. */
export function since(timestamp: string | null | undefined, now: number): number | null {
  const then = timestamp ? Date.parse(timestamp) : Number.NaN;
  return Number.isNaN(then) ? null : now - then;
}

const SAME_YEAR = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit' });
const OTHER_YEAR = new Intl.DateTimeFormat(undefined, { year: 'numeric', month: 'short', day: 'numeric' });

export function moment(timestamp: string, now: number): string {
  const date = new Date(timestamp);
  if (Number.isNaN(date.getTime())) return timestamp;
  return (date.getFullYear() === new Date(now).getFullYear() ? SAME_YEAR : OTHER_YEAR).format(date);
}

/** The last part of a path: how people call a project. */
export function basename(path: string): string {
  const trimmed = path.replace(/\/+$/, '');
  return trimmed.slice(trimmed.lastIndexOf('/') + 1) || '/';
}

/** A session's own name, else that of its project. */
export function sessionName({ name, workspace }: { name: string; workspace: string }): string {
  return name || basename(workspace);
}

/** A session in words: its own name, `my-app` or `my-app, slot 2`. */
export function label(session: Pick<Session, 'name' | 'workspace' | 'slot'>): string {
  const name = sessionName(session);
  return session.slot > 1 && !session.name ? `${name}, slot ${session.slot}` : name;
}

export function dirname(path: string): string {
  return path.slice(0, Math.max(1, path.replace(/\/+$/, '').lastIndexOf('/')));
}

const TOOL_NAMES: Record<string, string> = {
  claude: 'Claude Code',
  copilot: 'Copilot CLI',
  codex: 'Codex',
  gemini: 'Gemini CLI',
  shell: 'Shell',
};

export function toolName(tool: string): string {
  return TOOL_NAMES[tool] ?? tool;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** The tool of a session, and its slot where it is not the usual first one. */
export function toolAndSlot({ tool, slot }: Session): string {
  return slot > 1 ? `${toolName(tool)} · slot ${slot}` : toolName(tool);
}

/** The line below a session's name: its project if the name is not the project's, and its tool. */
export function projectAndTool(session: Session): string {
  const tool = toolAndSlot(session);
  return session.name ? `${basename(session.workspace)} · ${tool}` : tool;
}

/** The folder to show beside a session's name. A name that is the project's already says the end of its path. */
export function shownFolder({ name, workspace }: Pick<Session, 'name' | 'workspace'>): string {
  return name ? workspace : dirname(workspace);
}
