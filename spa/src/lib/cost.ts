/** Tokens and dollars as a person reads them. */
import type { Cost, Spending } from './types';

type Tokens = Exclude<Cost['tokens'], null>;

const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 });

export const count = (amount: number): string => compact.format(amount);

/** `+` says that there are tokens whose price is not known, too. */
export function dollars(amount: number | null, unpriced = 0): string {
  return amount === null ? 'not known' : `$${amount.toFixed(2)}${unpriced > 0 ? '+' : ''}`;
}

export function total({ input, output, cache_read, cache_write }: Tokens): number {
  return input + output + cache_read + cache_write;
}

/** What has no known price, and what to do about it; nothing where all has one. */
export function unpriced({ unpriced_tokens, unpriced_models }: Pick<Cost | Spending, 'unpriced_tokens' | 'unpriced_models'>): string {
  if (unpriced_tokens === 0) return '';
  const names = unpriced_models.length > 0 ? ` Add prices for ${unpriced_models.join(', ')} under [cost.prices] in your configuration.` : '';
  return `${count(unpriced_tokens)} tokens have no known price.${names}`;
}
