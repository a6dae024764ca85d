/** Wire types: what the server says and takes, field for field. Optional fields are extras that an older server may lack. */

export type SessionStatus = 'running' | 'stopped' | 'starting' | 'stopping';

export interface Session {
  /** Container name, the key in every call. */
  id: string;
  workspace: string;
  tool: string;
  slot: number;
  status: SessionStatus;
  persistent: boolean;
  /** Frozen by Incus: `stopped` to the API, and resumed with all its memory. */
  paused?: boolean;
  /** Why Incus reports the instance as broken; only while `status` is `stopped`. */
  error?: string;
  protection?: 'locked' | 'basic' | 'off';
  /** Why it is not locked, or what is special about this lock. */
  protection_note?: string;
  /** What of the configuration and of the project's own file does not hold, and why. */
  warnings?: string[];
  session_id?: string;
  created_at?: string;
  started_at?: string;
  image?: string;
  profile?: string;
  deadline?: string;
  /** When the terminal's bell last rang in this run; empty if it has not. */
  rang_at?: string;
}

export interface NewFolder {
  root: string;
  name: string;
  /** Make it a Git repository: the tool in a session cannot. */
  git: boolean;
}

export interface NewSessionRequest {
  workspace: string;
  tool?: string;
  persistent?: boolean;
  image?: string;
  profile?: string;
  /** A saved conversation to go on with. */
  resume?: string;
}

export interface HistoryEntry {
  session_id: string;
  workspace: string;
  tool: string;
  started_at: string;
  ended_at: string | null;
  id?: string;
  slot?: number;
  persistent?: boolean;
  exit_code?: number | null;
}

export interface Workspace {
  path: string;
  name: string;
  root: string;
  has_config: boolean;
  active_sessions: number;
}

export interface WorkspaceList {
  roots: string[];
  expanded_roots: string[];
  workspaces: Workspace[];
}

/** The effective configuration. Only what the dashboard itself reads is spelled out. */
export interface Config {
  defaults: { image: string; persistent: boolean; model: string };
  tool: { name: string };
  profiles: Record<string, unknown>;
  dashboard: { port: number; workspace_roots: string[] };
  [section: string]: unknown;
}

export interface ConfigSources {
  files: { path: string; exists: boolean; error: string | null }[];
  /** Dotted key to the file, variable or flag that set it, or `default`. */
  origins: Record<string, string>;
  warnings: string[];
  /** The file on disk is broken, and the last good configuration is in force. */
  error: string | null;
}

export interface Image {
  alias: string;
  description: string;
  size: number;
  created_at: string;
}

export interface HealthCheck {
  name: string;
  /** The name as a person reads it. */
  label: string;
  status: 'ok' | 'warning' | 'failed';
  message: string;
  fix?: string;
}

export interface Health {
  status: 'healthy' | 'degraded' | 'unhealthy';
  checks: Record<string, HealthCheck>;
}

export interface FileEntry {
  name: string;
  type: 'directory' | 'file' | 'symlink' | 'other';
  size: number;
  modified: string;
}

export interface Directory {
  path: string;
  entries: FileEntry[];
}

export interface FileContent {
  text: string;
  etag: string;
}

export type ServerEvent =
  | { type: 'session.started' | 'session.stopped' | 'session.changed'; id: string }
  | { type: 'incus.unreachable'; error: string }
  | { type: 'incus.reachable' }
  | { type: 'config.reloaded'; timestamp: string }
  | { type: 'config.error'; error: string };

/** What the server says in text frames on a terminal; its binary frames are output. Other types may come one day. */
export interface TerminalExit {
  type: string;
  code: number;
  reason: string;
}

/** What the page says in text frames on a terminal; its binary frames are keys. */
export type TerminalRequest =
  | { type: 'resize'; cols: number; rows: number }
  /** Hold the output back, and go on with it. */
  | { type: 'pause' | 'resume' };
