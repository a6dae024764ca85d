/** What stays behind, as a sentence for the person; empty if nothing does. */
export function leftBehind(): string {
  const count = (name: string): number => {
    try {
      return Object.keys((JSON.parse(localStorage.getItem(`clincus.${name}`) ?? 'null') as object | null) ?? {}).length;
    } catch {
      return 0;
    }
  };
  const written = ['drafts', 'comments-written', 'files-unsaved'].some((name) => count(name) > 0);
  const notified = localStorage.getItem('clincus.notify') === 'true';
  return [
    count('prompt-templates') > 0 ? 'Templates of prompts stay at the old port.' : '',
    written ? 'Prompts, comments and files that you have not sent or saved stay at the old port: send, save or copy them first.' : '',
    notified ? 'Turn notifications on again at the new port: to the browser that is another page.' : '',
  ]
    .filter(Boolean)
    .join(' ');
}
