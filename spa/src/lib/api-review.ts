/** The calls of review and undo. Only the Changes tab and the snapshots load them. */
import { find, get, session, write, writeKeeping } from './api';
import { encodePath } from './paths';
import type {
  ChangeList,
  Checkpoint,
  Commit,
  CommitDraft,
  CommitRequest,
  FileVersions,
  NewComment,
  PromptResult,
  Restored,
  ReviewComment,
  Snapshot,
} from './types';

const comment = (id: string, one: string): string => `${session(id)}/comments/${encodeURIComponent(one)}`;
const snapshot = (id: string, name: string): string => `${session(id)}/snapshots/${encodeURIComponent(name)}`;

export const review = {
  checkpoints: async (id: string) => (await (await find(`${session(id)}/checkpoints`)).json()) as Checkpoint[],
  addCheckpoint: (id: string, note: string) => write<Checkpoint>('POST', `${session(id)}/checkpoints`, { note }),

  async changes(id: string, from: string, to: string): Promise<ChangeList> {
    return (await (await find(`${session(id)}/changes?from=${encodePath(from)}&to=${encodePath(to)}`)).json()) as ChangeList;
  },

  async file(id: string, path: string, from: string, to: string): Promise<FileVersions> {
    const query = `path=${encodePath(path)}&from=${encodePath(from)}&to=${encodePath(to)}`;
    return (await (await find(`${session(id)}/changes/file?${query}`)).json()) as FileVersions;
  },

  /** A picture before or after. */
  async image(id: string, path: string, side: 'old' | 'new', from: string, to: string): Promise<Blob> {
    const query = `path=${encodePath(path)}&side=${side}&from=${encodePath(from)}&to=${encodePath(to)}`;
    return (await find(`${session(id)}/changes/image?${query}`)).blob();
  },

  /** All that differs, as a patch. */
  async patch(id: string, from: string, to: string): Promise<string> {
    return (await find(`${session(id)}/changes/patch?from=${encodePath(from)}&to=${encodePath(to)}`)).text();
  },

  commitDraft: async (id: string) => (await (await find(`${session(id)}/commit`)).json()) as CommitDraft,
  commit: (id: string, request: CommitRequest) => write<Commit>('POST', `${session(id)}/commit`, request),

  comments: (id: string) => get<ReviewComment[]>(`${session(id)}/comments`),
  addComment: (id: string, request: NewComment) => write<ReviewComment>('POST', `${session(id)}/comments`, request),
  changeComment: (id: string, one: string, text: string) => write<ReviewComment>('PATCH', comment(id, one), { text }),
  removeComment: (id: string, one: string) => write<undefined>('DELETE', comment(id, one)),
  /** Sends all comments to the tool as one prompt. With the key of a try whose answer was lost nothing is sent twice. */
  sendComments: (id: string, key: string) =>
    write<{ prompt_id: string; result: PromptResult }>('POST', `${session(id)}/comments/send`, undefined, { 'Idempotency-Key': key }),

  /** Puts files back as they were; `paths` null for all that the turns of the session touched. */
  restore: (id: string, checkpoint: string, paths: readonly string[] | null) =>
    write<Restored>('POST', `${session(id)}/restore`, { checkpoint, paths }),

  snapshots: async (id: string) => (await (await find(`${session(id)}/snapshots`)).json()) as Snapshot[],
  /** `name` is empty for one by the time. */
  addSnapshot: (id: string, name: string) => write<Snapshot>('POST', `${session(id)}/snapshots`, name ? { name } : {}),
  removeSnapshot: (id: string, name: string) => write<undefined>('DELETE', snapshot(id, name)),
  restoreSnapshot: (id: string, name: string) => writeKeeping('POST', `${snapshot(id, name)}/restore?force=true`),
};
