/** Tokens and dollars as a person reads them. */
import type { Cost, Spending } from './types';

type Tokens = Exclude<Cost['tokens'], null>;

const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 });

export const count = (amount: number): string => compact.format(amount);

/** `+` says that more was used: tokens whose price is not known, or what was not read. */
export function dollars(amount: number | null, unpriced = 0, truncated = false): string {
  return amount === null ? 'not known' : `$${amount.toFixed(2)}${unpriced > 0 || truncated ? '+' : ''}`;
}

export function total({ input, output, cache_read, cache_write }: Tokens): number {
  return input + output + cache_read + cache_write;
}

type Known = Pick<Cost | Spending, 'unpriced_tokens' | 'unpriced_models' | 'truncated'>;

/** What the figures are without, and what to do about it; nothing where they are complete. */
export function missing({ unpriced_tokens, unpriced_models, truncated }: Known): string {
  const found: string[] = [];
  if (unpriced_tokens > 0) found.push(`${count(unpriced_tokens)} tokens have no known price.`);
  if (unpriced_models.length > 0) found.push(`Add prices for ${unpriced_models.join(', ')} under [cost.prices] in your configuration.`);
  if (truncated) found.push('Not all was read: more was used than this.');
  return found.join(' ');
}
