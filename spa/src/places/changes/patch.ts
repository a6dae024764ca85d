/** All that differs, on the clipboard, for `git apply` elsewhere. */
import { sentence } from '../../lib/api';
import { review } from '../../lib/api-review';
import { copy } from '../../state/actions';
import { ui } from '../../state/ui.svelte';
import type { Address } from './address';

/** What the server writes below a patch that it has cut off. */
const CUT = '\n# The rest is left out: it is too much.\n';

export async function copyPatch(session: string, { from, to }: Pick<Address, 'from' | 'to'>): Promise<void> {
  try {
    const patch = await review.patch(session, from, to);
    if (patch.endsWith(CUT)) ui.toast('The patch is too large. `clincus diff NAME PATH` in a terminal shows it file by file.', 'error');
    else await copy(patch, 'the patch');
  } catch (error) {
    ui.toast(`The patch was not copied. ${sentence(error)}`, 'error');
  }
}
