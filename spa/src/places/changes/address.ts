/** What is compared, as the address of the Changes tab has it. */
import { decodePath, encodePath } from '../../lib/paths';
import { href } from '../../lib/router.svelte';

export interface Address {
  /** `start`, `turn`, `branch` or a checkpoint. */
  from: string;
  /** `now` or a checkpoint. */
  to: string;
  path: string;
}

/** Where it begins without an address. */
export const SINCE_START: Address = { from: 'start', to: 'now', path: '' };

const field = (search: string, name: string): string => new RegExp(`[?&]${name}=([^&]*)`).exec(search)?.[1] ?? '';

export function readAddress(search: string): Address {
  return {
    from: decodePath(field(search, 'from')) || SINCE_START.from,
    to: decodePath(field(search, 'to')) || SINCE_START.to,
    path: decodePath(field(search, 'path')),
  };
}

export function addressOf(id: string, { from, to, path }: Address): string {
  const parts = [
    from !== SINCE_START.from && `from=${encodePath(from)}`,
    to !== SINCE_START.to && `to=${encodePath(to)}`,
    path && `path=${encodePath(path)}`,
  ].filter(Boolean);
  const base = href.session(id, 'changes');
  return parts.length > 0 ? `${base}?${parts.join('&')}` : base;
}
