/** Guards for what the browser has stored: an older version of the page, or anybody, may have written it. */

export const isBoolean = (value: unknown): value is boolean => typeof value === 'boolean';

export const isTexts = (value: unknown): value is string[] => Array.isArray(value) && value.every((one) => typeof one === 'string');

export const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

export const isTextRecord = (value: unknown): value is Record<string, string> =>
  isRecord(value) && Object.values(value).every((one) => typeof one === 'string');
