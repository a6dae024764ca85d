/**
 * Compiles Lucide's icons to plain markup. As they come, each icon builds its shapes one by one when it is shown, from a
 * list and through a component that they share: half of the time that the page takes to appear.
 *
 * An icon reads `size` and `aria-label` alone; one without a label is hidden from a screen reader. How the lines are drawn
 * is in src/styles/base.css.
 */
const ICON = /@lucide\/svelte\/dist\/icons\/[\w-]+\.svelte$/;
const DATA = /const iconData = (\{.*\});\n/;
/** @param {[string, Record<string, string>]} shape */
function markup([tag, attributes]) {
  const words = Object.entries(attributes).map(([name, value]) => ` ${name}="${value}"`);
  return `<${tag}${words.join('')} />`;
}

/** The component of an icon, made from Lucide's own. */
function plainIcon(source) {
  const found = DATA.exec(source);
  if (!found) throw new Error('Lucide writes its icons in another way than scripts/icons.mjs reads them');
  const { name, node } = JSON.parse(found[1]);
  return `<script>
  let { size = 24, 'aria-label': label } = $props();
</script>

<svg class="lucide lucide-${name}" width={size} height={size} viewBox="0 0 24 24" aria-label={label} aria-hidden={!label}>${node.map(markup).join('')}</svg>
`;
}

/** @returns {import('vite').Plugin} */
export function plainIcons() {
  return {
    name: 'clincus-plain-icons',
    enforce: 'pre',
    transform: { filter: { id: ICON }, handler: (source) => plainIcon(source) },
  };
}
