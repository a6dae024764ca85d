/** The text of a terminal without colours, links and whatever else is no text: what is left can be pasted anywhere. */
export function plain(shown: string): string {
  return (
    shown
      // eslint-disable-next-line no-control-regex
      .replace(/\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])/g, '')
      // eslint-disable-next-line no-control-regex
      .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, '')
      .replace(/[ \t]+$/gm, '')
      .trimEnd()
  );
}
