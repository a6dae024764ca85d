/** The page's icon in the browser's tab, with the number of sessions that need a person. */
const SIZE = 64;

/** The mark of public/icon.svg and a number, as the address of a picture; empty where nothing can be drawn. */
function draw(count: number): string {
  const canvas = Object.assign(document.createElement('canvas'), { width: SIZE, height: SIZE });
  const context = canvas.getContext('2d');
  if (!context) return '';
  context.scale(SIZE / 512, SIZE / 512);
  context.fillStyle = '#1b1e2b';
  context.beginPath();
  context.roundRect(0, 0, 512, 512, 112);
  context.fill();
  context.lineCap = context.lineJoin = 'round';
  context.lineWidth = 48;
  context.strokeStyle = '#8fa8ff';
  context.stroke(new Path2D('M344 156a136 136 0 1 0 0 200'));
  context.fillStyle = '#ffb02e';
  context.beginPath();
  context.arc(344, 344, 168, 0, 2 * Math.PI);
  context.fill();
  context.fillStyle = '#1b1e2b';
  context.font = '700 240px system-ui, sans-serif';
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  context.fillText(count > 9 ? '9+' : String(count), 344, 356, 260);
  return canvas.toDataURL('image/png');
}

/** The icon that the page came with. */
let plain = '';

export function showCount(count: number): void {
  const icon = document.querySelector<HTMLLinkElement>('link[rel="icon"]');
  if (!icon) return;
  plain ||= icon.href;
  const address = count ? draw(count) : plain;
  if (!address || icon.href === address) return;
  icon.type = count ? 'image/png' : 'image/svg+xml';
  icon.href = address;
}
