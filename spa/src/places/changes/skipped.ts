import type { ChangeList } from '../../lib/types';

/** Why no checkpoint holds a path. */
export const WHY_SKIPPED: Record<ChangeList['skipped'][number]['why'], string> = {
  large: 'over 20 MB',
  repository: 'a repository of its own',
  unreadable: 'cannot be read',
  special: 'no plain file',
  ignored: 'ignored',
};
