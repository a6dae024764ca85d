/** The changed files as a tree: folders first, and a folder that holds nothing but one folder shares its row. */
import type { ChangedFile } from '../../lib/types';

export interface ChangeRow {
  /** Unique: the path, with a slash behind a folder's. */
  key: string;
  name: string;
  depth: number;
  /** The file, or null for a folder. */
  file: ChangedFile | null;
  /** The files in it. */
  files: number;
  expanded: boolean;
}

interface Folder {
  folders: Map<string, Folder>;
  files: ChangedFile[];
  count: number;
}

const newFolder = (): Folder => ({ folders: new Map(), files: [], count: 0 });

const compare = new Intl.Collator(undefined, { numeric: true }).compare;

export const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

function grow(files: readonly ChangedFile[]): Folder {
  const root = newFolder();
  for (const file of files) {
    let at = root;
    at.count += 1;
    for (const part of file.path.split('/').slice(0, -1)) {
      const next = at.folders.get(part) ?? newFolder();
      at.folders.set(part, next);
      at = next;
      at.count += 1;
    }
    at.files.push(file);
  }
  return root;
}

function walk(folder: Folder, path: string, depth: number, folded: ReadonlySet<string>, rows: ChangeRow[]): void {
  for (const [first, below] of [...folder.folders].sort(([a], [b]) => compare(a, b))) {
    let [name, at] = [first, below];
    for (let only = [...at.folders]; at.files.length === 0 && only.length === 1; only = [...at.folders]) {
      const [[part, next] = ['', at]] = only;
      [name, at] = [`${name}/${part}`, next];
    }
    const key = `${path}${name}/`;
    const expanded = !folded.has(key);
    rows.push({ key, name, depth, file: null, files: at.count, expanded });
    if (expanded) walk(at, key, depth + 1, folded, rows);
  }
  for (const file of [...folder.files].sort((a, b) => compare(nameOf(a.path), nameOf(b.path))))
    rows.push({ key: file.path, name: nameOf(file.path), depth, file, files: 1, expanded: false });
}

export function changeRows(files: readonly ChangedFile[], folded: ReadonlySet<string>): ChangeRow[] {
  const rows: ChangeRow[] = [];
  walk(grow(files), '', 0, folded, rows);
  return rows;
}
