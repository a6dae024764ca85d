/**
 * Paths of a container, whose names are bytes. Text that is UTF-8 is itself; each other byte is a lone surrogate, U+DC80 to
 * U+DCFF, as Python has it (PEP 383). So a path is a string of the page, and no byte of it is lost.
 */
const SURROGATES = 0xdc00;

/** The number of bytes in the UTF-8 sequence that begins with this one, by its first bits. */
const lengthAt = (lead: number): number => (lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4);

function bytesOf(encoded: string): Uint8Array {
  const bytes: number[] = [];
  for (const [part] of encoded.replaceAll('+', ' ').matchAll(/%[0-9a-f]{2}|[^%]+|%/gi)) {
    if (part.length === 3 && part.startsWith('%')) bytes.push(Number.parseInt(part.slice(1), 16));
    else bytes.push(...new TextEncoder().encode(part));
  }
  return Uint8Array.from(bytes);
}

/** A path out of its percent-encoded form. */
export function decodePath(encoded: string): string {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const bytes = bytesOf(encoded);
  let text = '';
  for (let at = 0; at < bytes.length; ) {
    const lead = bytes[at] ?? 0;
    const end = at + lengthAt(lead);
    try {
      text += decoder.decode(bytes.subarray(at, end));
      at = end;
    } catch {
      text += String.fromCharCode(SURROGATES + lead);
      at += 1;
    }
  }
  return text;
}

/** The percent-encoded form of a path, as a query takes it. */
export function encodePath(path: string): string {
  return Array.from(path, (character) => {
    const code = character.codePointAt(0) ?? 0;
    if (code >= 0xdc80 && code <= 0xdcff) return `%${(code - SURROGATES).toString(16).toUpperCase()}`;
    // No other half of a pair is a character: it cannot be encoded.
    return code >= 0xd800 && code <= 0xdfff ? '%EF%BF%BD' : encodeURIComponent(character);
  }).join('');
}

/** Whether a file calls itself a picture that browsers show. An SVG is a text: as a document it could run a script. */
export function isPicture(path: string): boolean {
  return /\.(png|jpe?g|gif|webp|avif|bmp)$/i.test(path);
}
