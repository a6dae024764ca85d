/** The configuration as a table: each value that is in force, and where it comes from. */
import type { Config, ConfigSources } from '../../lib/types';

export interface Value {
  key: string;
  text: string;
  origin: string;
}

/** Every leaf of the configuration as a dotted key; lists and empty tables are leaves. */
export function flatten(value: unknown, prefix = ''): [string, unknown][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [[prefix, value]];
  const entries = Object.entries(value);
  if (entries.length === 0) return [[prefix, value]];
  return entries.flatMap(([key, inner]) => flatten(inner, prefix ? `${prefix}.${key}` : key));
}

/** The origin of a key, or of the nearest table above it that has one. */
export function originOf(origins: Record<string, string>, key: string): string {
  for (let name = key; name; name = name.slice(0, Math.max(0, name.lastIndexOf('.')))) {
    const origin = origins[name];
    if (origin) return origin;
  }
  return 'default';
}

/** The rows of the table. */
export function valuesOf(current: Config | null, { origins }: ConfigSources): readonly Value[] {
  return flatten(current ?? {}).map(([key, value]) => ({
    key,
    text: typeof value === 'string' ? value : JSON.stringify(value),
    origin: originOf(origins, key),
  }));
}
