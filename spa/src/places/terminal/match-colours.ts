/** How a terminal's search marks what it finds. Hex, as xterm.js takes it; the text keeps its colour and stays legible. */
import type { ISearchDecorationOptions } from '@xterm/addon-search';

export function matchColours(dark: boolean): ISearchDecorationOptions {
  return dark
    ? {
        matchBackground: '#4d4526',
        activeMatchBackground: '#8a5a12',
        matchOverviewRuler: '#b59b35',
        activeMatchColorOverviewRuler: '#f0a63a',
      }
    : {
        matchBackground: '#fbeeb5',
        activeMatchBackground: '#ffc24d',
        matchOverviewRuler: '#d9b53c',
        activeMatchColorOverviewRuler: '#c2700a',
      };
}
