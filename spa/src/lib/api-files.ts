/** The calls about the files of a session. */
import { find, send, session, WRITE_TIMEOUTS_MS } from './api';
import { encodePath } from './paths';
import type { Directory, FileContent } from './types';

const file = (id: string, path: string): string => `${session(id)}/files/content?path=${encodePath(path)}`;

export const filesApi = {
  directory: async (id: string, path: string) =>
    (await (await find(`${session(id)}/files?path=${encodePath(path)}`)).json()) as Directory,

  /** The file's text, or null if it is still the version `etag` names. */
  async readFile(id: string, path: string, etag?: string): Promise<FileContent | null> {
    const response = await find(file(id, path), etag ? { headers: { 'If-None-Match': etag } } : {});
    if (response.status === 304) return null;
    const current = response.headers.get('ETag') ?? '';
    if (etag && current === etag) return null;
    return { text: await response.text(), etag: current };
  },

  readPicture: async (id: string, path: string) => (await find(`${session(id)}/files/image?path=${encodePath(path)}`)).blob(),

  /** Saves over the version `etag` names (a new file if it is null) and returns the new version. 412 if it changed. */
  async writeFile(id: string, path: string, text: string, etag: string | null): Promise<string> {
    const condition: Record<string, string> = etag === null ? { 'If-None-Match': '*' } : { 'If-Match': etag };
    const headers = { 'Content-Type': 'application/octet-stream', ...condition };
    const response = await send('PUT', file(id, path), { headers, body: text }, WRITE_TIMEOUTS_MS);
    return response.headers.get('ETag') ?? '';
  },
};
