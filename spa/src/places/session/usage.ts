/** From what the server says of a session's usage, sample by sample, to the lines of a graph. */
import type { Usage } from '../../lib/types';

/** Samples that a graph shows. */
export const SAMPLES = 60;

export interface Sample {
  /** Milliseconds since 1970. */
  at: number;
  /** Of one CPU: 200 is two that do nothing else. Null for the first sample, and where it is not known. */
  cpu: number | null;
  usage: Usage;
}

/** The samples with a new one; the same answer again, which the server keeps for 2 s, is none. */
export function withSample(samples: readonly Sample[], usage: Usage): readonly Sample[] {
  const at = Date.parse(usage.at);
  const before = samples.at(-1);
  if (before && at <= before.at) return samples;
  const [then, now] = [before?.usage.cpu_seconds ?? null, usage.cpu_seconds];
  // A counter that went back is that of another run.
  const cpu = before && then !== null && now !== null && now >= then ? ((now - then) * 100_000) / (at - before.at) : null;
  return [...samples.slice(1 - SAMPLES), { at, cpu, usage }];
}

/** An SVG path for values on a canvas of `width` x `height`, the newest at the right; a gap where one is not known. */
export function line(values: readonly (number | null)[], top: number, width: number, height: number): string {
  const step = width / (SAMPLES - 1);
  let pen = 'M';
  return values
    .map((value, index) => {
      const mark = pen;
      pen = value === null ? 'M' : 'L';
      if (value === null) return '';
      const x = width - (values.length - 1 - index) * step;
      const y = height * (1 - Math.min(value / top, 1));
      return `${mark}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join('');
}
