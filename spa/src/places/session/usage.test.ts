import { describe, expect, it } from 'vitest';

import type { Usage } from '../../lib/types';
import { line, type Sample, SAMPLES, withSample } from './usage';

const usage = (seconds: number, cpu: number | null): Usage => ({
  cpu_seconds: cpu,
  memory_bytes: 1,
  memory_limit: null,
  disk_bytes: null,
  processes: null,
  received_bytes: null,
  sent_bytes: null,
  at: new Date(seconds * 1000).toISOString(),
});

const cpuOf = (...answers: readonly (readonly [number, number | null])[]): (number | null)[] =>
  answers.reduce<readonly Sample[]>((samples, one) => withSample(samples, usage(...one)), []).map(({ cpu }) => cpu);

describe('the share of a CPU', () => {
  it('comes from two samples', () => expect(cpuOf([10, 1], [12, 2], [14, 6])).toEqual([null, 50, 200]));
  it('is not known where the time is not', () => expect(cpuOf([10, 1], [12, null], [14, 6])).toEqual([null, null, null]));
  it('is not known across a restart', () => expect(cpuOf([10, 9], [12, 1], [14, 2])).toEqual([null, null, 50]));
  it('takes the same answer once', () => expect(cpuOf([10, 1], [10, 1], [12, 2])).toEqual([null, 50]));
});

it('keeps as many samples as a graph shows', () => {
  const answers = Array.from({ length: SAMPLES + 5 }, (_, second) => [second, second] as const);
  expect(cpuOf(...answers)).toHaveLength(SAMPLES);
});

it('draws a line that ends at the right, with gaps, and never above the top', () => {
  expect(line([1, null, 2, 9], 4, 59, 10)).toBe('M56.0 7.5M58.0 5.0L59.0 0.0');
});
