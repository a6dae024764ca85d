/** Names of an allow list: `pypi.org`, `*.github.com` for those below it, and `host:8443` for a port that is not of the web. */

const isWeb = (port: number): boolean => port === 443 || port === 80;

/** What a person typed into a field for names, as names. */
export const namesIn = (text: string): string[] => [...new Set(text.toLowerCase().split(/[\s,]+/).filter(Boolean))];

/** A host and its port as a name of the list. */
export const nameFor = ({ host, port }: { host: string; port: number }): string => (isWeb(port) ? host : `${host}:${port}`);

function fits(name: string, host: string, port: number): boolean {
  const [, below, rest = '', wanted] = /^(\*\.)?([^:]*)(?::(\d+))?$/.exec(name) ?? [];
  const isPort = wanted === undefined ? isWeb(port) : Number(wanted) === port;
  return isPort && (below ? host.endsWith(`.${rest}`) : host === rest);
}

/** Whether it helps to put a host on the list: it is a name, and not there yet. */
export function canBeAllowed({ host, port }: { host: string; port: number }, names: readonly string[]): boolean {
  const isName = /^[a-z0-9_.-]*[a-z][a-z0-9_-]*$/.test(host);
  return isName && !names.some((name) => fits(name, host, port));
}
