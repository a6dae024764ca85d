/**
 * Markdown as a tree of our own, by the parser of the editor. An agent wrote the text: components draw the tree, so no HTML of
 * it becomes part of the page. A picture is its words, as loading it would tell somebody that the text was read.
 */
import type { SyntaxNode } from '@lezer/common';
import { GFM, parser } from '@lezer/markdown';

export type Inline =
  | { kind: 'text'; text: string }
  | { kind: 'code'; text: string }
  | { kind: 'strong' | 'em' | 'del'; inside: readonly Inline[] }
  | { kind: 'link'; href: string; inside: readonly Inline[] }
  | { kind: 'break' };

export interface Item {
  /** Null for one that is no task. */
  done: boolean | null;
  blocks: readonly Block[];
}

export type Block =
  | { kind: 'heading'; level: number; inside: readonly Inline[] }
  | { kind: 'paragraph'; inside: readonly Inline[] }
  | { kind: 'code'; text: string }
  | { kind: 'list'; start: number | null; items: readonly Item[] }
  | { kind: 'quote'; blocks: readonly Block[] }
  | { kind: 'table'; head: readonly (readonly Inline[])[]; rows: readonly (readonly (readonly Inline[])[])[] }
  | { kind: 'rule' };

/** Longer texts end here: the page would have to draw all of it. */
export const MOST_CHARACTERS = 200_000;
/** What is nested deeper is plain text. */
const MOST_DEPTH = 16;

const markdown = parser.configure(GFM);

const ENTITIES: Record<string, string> = { '&amp;': '&', '&lt;': '<', '&gt;': '>', '&quot;': '"', '&#39;': "'", '&nbsp;': '\u00a0' };
/** They stand for the form and not for themselves. */
const MARKS = /Mark$|^(LinkTitle|LinkLabel|URL|TaskMarker|CodeInfo)$/;
const SPANS: Record<string, 'strong' | 'em' | 'del'> = { StrongEmphasis: 'strong', Emphasis: 'em', Strikethrough: 'del' };

/** An address that a person may go to; empty for any other: scripts, files, and places in a folder of the container. */
export function safeHref(address: string): string {
  try {
    const url = new URL(/^[^\s@/:]+@[^\s@/]+$/.test(address) ? `mailto:${address}` : address);
    return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : '';
  } catch {
    return '';
  }
}

function* childrenOf(node: SyntaxNode): Generator<SyntaxNode> {
  for (let child = node.firstChild; child; child = child.nextSibling) yield child;
}

class Reader {
  constructor(readonly text: string) {}

  blocks(parent: SyntaxNode, depth = 0): Block[] {
    return [...childrenOf(parent)].flatMap((node) => this.#block(node, depth));
  }

  #of({ from, to }: { from: number; to: number }): string {
    return this.text.slice(from, to);
  }

  #block(node: SyntaxNode, depth: number): Block[] {
    const heading = /^(?:ATX|Setext)Heading([1-6])$/.exec(node.name);
    if (heading) return [{ kind: 'heading', level: Number(heading[1]), inside: this.#inline(node, depth) }];
    if (depth > MOST_DEPTH) return [{ kind: 'paragraph', inside: [{ kind: 'text', text: this.#of(node) }] }];
    switch (node.name) {
      case 'Paragraph':
        return [{ kind: 'paragraph', inside: this.#inline(node, depth) }];
      case 'FencedCode':
      case 'CodeBlock':
        return [{ kind: 'code', text: node.getChildren('CodeText').map((part) => this.#of(part)).join('') }];
      case 'BulletList':
      case 'OrderedList':
        return [this.#list(node, depth)];
      case 'Blockquote':
        return [{ kind: 'quote', blocks: this.blocks(node, depth + 1) }];
      case 'HorizontalRule':
        return [{ kind: 'rule' }];
      case 'Table':
        return [this.#table(node, depth)];
      case 'HTMLBlock':
      case 'CommentBlock':
      case 'ProcessingInstructionBlock':
        return [{ kind: 'code', text: this.#of(node) }];
      default:
        return [];
    }
  }

  #list(node: SyntaxNode, depth: number): Block {
    const items = node.getChildren('ListItem');
    const mark = items[0]?.getChild('ListMark');
    const start = node.name === 'OrderedList' ? Number.parseInt(mark ? this.#of(mark) : '1', 10) : null;
    return { kind: 'list', start, items: items.map((item) => this.#item(item, depth + 1)) };
  }

  #item(node: SyntaxNode, depth: number): Item {
    const task = node.getChild('Task');
    if (!task) return { done: null, blocks: this.blocks(node, depth) };
    const mark = task.getChild('TaskMarker');
    const first: Block = { kind: 'paragraph', inside: this.#inline(task, depth) };
    return { done: mark !== null && /x/i.test(this.#of(mark)), blocks: [first, ...this.blocks(node, depth)] };
  }

  #table(node: SyntaxNode, depth: number): Block {
    const cells = (row: SyntaxNode | null): (readonly Inline[])[] => row?.getChildren('TableCell').map((cell) => this.#inline(cell, depth)) ?? [];
    return { kind: 'table', head: cells(node.getChild('TableHeader')), rows: node.getChildren('TableRow').map(cells) };
  }

  #inline(parent: SyntaxNode, depth: number, from = parent.from, to = parent.to): Inline[] {
    const found: Inline[] = [];
    let at = from;
    const plain = (end: number): void => {
      if (end > at) found.push({ kind: 'text', text: this.text.slice(at, end) });
    };
    for (const node of childrenOf(parent)) {
      if (node.from < at || node.to > to) continue;
      plain(node.from);
      at = node.to;
      if (!MARKS.test(node.name) || (node.name === 'URL' && parent.name !== 'Link')) found.push(...this.#part(node, depth + 1));
    }
    plain(to);
    return trimmed(found);
  }

  #part(node: SyntaxNode, depth: number): Inline[] {
    const span = SPANS[node.name];
    const text = this.#of(node);
    if (depth > MOST_DEPTH) return [{ kind: 'text', text }];
    if (span) return [{ kind: span, inside: this.#inline(node, depth) }];
    switch (node.name) {
      case 'InlineCode':
        return [{ kind: 'code', text: text.replace(/^`+ ?| ?`+$/g, '') }];
      case 'Link':
      case 'Image':
        return this.#link(node, depth);
      case 'Autolink':
      case 'URL':
        return linked(text.replace(/^<|>$/g, ''), [{ kind: 'text', text: text.replace(/^<|>$/g, '') }]);
      case 'HardBreak':
        return [{ kind: 'break' }];
      case 'Escape':
        return [{ kind: 'text', text: text.slice(1) }];
      case 'Entity':
        return [{ kind: 'text', text: ENTITIES[text] ?? text }];
      default:
        return [{ kind: 'text', text }];
    }
  }

  #link(node: SyntaxNode, depth: number): Inline[] {
    const [open, close] = node.getChildren('LinkMark');
    const inside = open && close ? this.#inline(node, depth, open.to, close.from) : [];
    const url = node.getChild('URL');
    return node.name === 'Link' && url ? linked(this.#of(url), inside) : inside;
  }
}

function linked(address: string, inside: readonly Inline[]): Inline[] {
  const href = safeHref(address);
  return href ? [{ kind: 'link', href, inside }] : [...inside];
}

/** Without the blanks around it, which stood beside a mark. */
function trimmed(parts: Inline[]): Inline[] {
  const [first, last] = [parts[0], parts.at(-1)];
  if (first?.kind === 'text') first.text = first.text.replace(/^[ \t]+(?=\S)/, (blanks) => (parts.length > 1 && blanks.length < 2 ? ' ' : ''));
  if (last?.kind === 'text') last.text = last.text.replace(/\s+#*\s*$/, (end) => (end.includes('#') ? '' : end));
  return parts;
}

export function parse(text: string): Block[] {
  const cut = text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)} …` : text;
  return new Reader(cut).blocks(markdown.parse(cut).topNode);
}
