/**
 * What the server says and takes: names for what wire.ts has, which `npm run types` makes out of openapi.json. What goes over
 * WebSockets stands here, since OpenAPI has no words for it.
 */
import type { components, operations } from './wire';

type Schemas = components['schemas'];
type Body<Operation extends keyof operations> = operations[Operation] extends {
  requestBody?: { content: { 'application/json': infer Content } };
}
  ? Content
  : never;

export type Session = Schemas['Session'];
export type SessionStatus = Session['status'];
/** What the server takes when it is absent may be so. */
export type NewSessionRequest = Omit<Body<'create_session'>, 'accept_changes'> & { accept_changes?: boolean };
export type HistoryEntry = Schemas['HistoryEntry'];
export type Workspace = Schemas['Workspace'];
export type WorkspaceList = Schemas['Workspaces'];
export type NewFolder = Body<'create_folder'>;
export type Config = Schemas['Config'];
export type ConfigChange = Body<'update_config'>;
export type ConfigSources = Schemas['ConfigSources'];
export type Image = Schemas['Image'];
export type Engine = Schemas['Engine'];
export type Agent = Schemas['Agent'];
export type AgentExplained = Schemas['AgentExplained'];
export type Push = Schemas['Push'];
export type PushDevice = Schemas['PushDevice'];
export type PushResult = Schemas['PushResult'];
export type NewPushDevice = Body<'add_push_device'>;
export type PushChange = Body<'update_push'>;
export type Prompt = Schemas['Prompt'];
export type PromptChange = Body<'update_prompt'>;
export type PromptResult = Schemas['PromptResult'];
export type Answer = Body<'send_answer'>;
export type AnswerResult = operations['send_answer']['responses'][200]['content']['application/json']['result'];
export type Health = Schemas['Health'];
export type HealthCheck = Schemas['HealthCheck'];
export type FileEntry = Schemas['FileEntry'];
export type Usage = Schemas['Usage'];
export type LogEntry = Schemas['LogEntry'];
export type Conversation = Schemas['Conversation'];
export type Message = Schemas['Message'];
export type Cost = Schemas['Cost'];
export type Spending = Schemas['Spending'];
export type MovedBranch = Schemas['MovedBranch'];
export type Unsaved = Schemas['Unsaved'];
export type SessionChange = Body<'update_session'>;
export type Directory = Schemas['FileListing'];

export type ChangeList = Schemas['Changes'];
export type ChangedFile = ChangeList['files'][number];
/** Both texts of a file that changed. */
export type FileVersions = Schemas['ChangedFile'];
export type Checkpoint = Schemas['Checkpoint'];
export type ReviewComment = Schemas['Comment'];
export type NewComment = Body<'add_comment'>;
export type Restored = Schemas['Restored'];
export type Snapshot = Schemas['Snapshot'];
export type CommitDraft = Schemas['CommitDraft'];
export type CommitRequest = Body<'create_commit'>;
export type Commit = Schemas['Commit'];

/** What is sealed in a session, what became another file, and what appeared that runs on the host. */
export type ProtectionReport = Schemas['Protection'];
export type SealedChange = Schemas['SealedChange'];
export type Appeared = Schemas['Appeared'];

/** A login that stays on this machine, and that sessions borrow. */
export type Login = Schemas['Login'];

export type Network = Schemas['Network'];
export type NetworkMode = Network['mode'];
export type NetworkChange = Pick<SessionChange, 'network' | 'allow' | 'presets'>;
export type NetworkPresets = Schemas['NetworkPresets'];
export type Refusal = Network['refused'][number];
export type Passage = Network['passed'][number];
/** A port on which something in the container listens. */
export type Port = Schemas['Ports']['ports'][number];

/** A file's text, and the version it is of. */
export interface FileContent {
  text: string;
  etag: string;
}

export type ServerEvent =
  | { type: 'session.started' | 'session.stopped'; id: string }
  | { type: 'session.changed'; id: string; rang_at?: string }
  | { type: 'session.agent'; id: string; agent: Agent }
  | { type: 'session.protection'; id: string; protection: Session['protection'] }
  | { type: 'session.alarm'; id: string; text: string }
  | { type: 'push.changed' }
  | { type: 'session.prompts'; id: string }
  | { type: 'session.changes'; id: string; changes: Session['changes'] }
  | { type: 'session.checkpoint' | 'session.comments'; id: string }
  | { type: 'engine.changed'; engine: string; error: string }
  | { type: 'incus.unreachable'; error: string }
  | { type: 'incus.reachable' }
  | { type: 'config.reloaded'; timestamp: string }
  | { type: 'config.error'; error: string };

/** A text frame of the server on a terminal; its binary frames are output. Other types may come one day. */
export interface TerminalExit {
  type: string;
  code: number;
  reason: string;
}

/** A text frame of the page on a terminal; its binary frames are keys. */
export type TerminalRequest =
  | { type: 'resize'; cols: number; rows: number }
  /** Hold the output back, and go on with it. */
  | { type: 'pause' | 'resume' };
