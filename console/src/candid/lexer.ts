// Tokens of Candid's text format.
import { CandidError } from './syntax.ts';

export interface Token {
  kind: 'word' | 'text' | 'number' | 'symbol' | 'end';
  // A text's value, without quotes and escapes.
  value: string;
  line: number;
  // Comment lines directly above.
  docs: string;
}

const SYMBOLS = ['->', '{', '}', '(', ')', ';', ',', ':', '=', '.'];
const ESCAPES: Record<string, string> = { n: '\n', r: '\r', t: '\t', '\\': '\\', '"': '"', "'": "'" };

export function tokens(source: string): Token[] {
  const found: Token[] = [];
  let at = 0;
  let line = 1;
  let docs: string[] = [];
  let docsEnd = 0;

  const push = (kind: Token['kind'], value: string) => {
    // A comment belongs to what follows it at once, not to what stands behind an empty line.
    const text = docsEnd + 1 >= line ? docs.join('\n') : '';
    found.push({ kind, value, line, docs: text });
    docs = [];
  };
  const match = (pattern: RegExp) => {
    pattern.lastIndex = at;
    const result = pattern.exec(source);
    if (result) at += result[0].length;
    return result?.[0];
  };

  while (at < source.length) {
    const next = source[at]!;
    if (next === '\n') {
      line += 1;
      at += 1;
      continue;
    }
    if (match(/[ \t\r\f\v\u00a0\ufeff]+/y)) continue;
    const comment = match(/\/\/[^\n]*/y);
    if (comment !== undefined) {
      const last = found.at(-1);
      // Behind something on its line it says nothing about what follows.
      if (last?.line !== line) {
        if (docsEnd + 1 < line) docs = [];
        docs.push(comment.replace(/^\/\/+ ?/, '').trimEnd());
        docsEnd = line;
      }
      continue;
    }
    if (source.startsWith('/*', at)) {
      line += blockComment(source, at, line, end => (at = end));
      continue;
    }
    const word = match(/[A-Za-z_][A-Za-z0-9_]*/y);
    if (word !== undefined) {
      push('word', word);
      continue;
    }
    const number = match(/0x[0-9a-fA-F][0-9a-fA-F_]*|[0-9][0-9_]*/y);
    if (number !== undefined) {
      push('number', number.replaceAll('_', ''));
      continue;
    }
    if (next === '"') {
      const { value, end } = text(source, at, line);
      push('text', value);
      at = end;
      continue;
    }
    const symbol = SYMBOLS.find(symbol => source.startsWith(symbol, at));
    if (!symbol) throw new CandidError(`line ${line}: unexpected character ${JSON.stringify(next)}`);
    push('symbol', symbol);
    at += symbol.length;
  }
  push('end', '');
  return found;
}

// Passes over a comment, which may hold others; returns how many lines it has.
function blockComment(source: string, start: number, line: number, ends: (at: number) => void): number {
  let depth = 0;
  let lines = 0;
  let at = start;
  do {
    if (at >= source.length) throw new CandidError(`line ${line}: a comment has no end`);
    if (source.startsWith('/*', at)) {
      depth += 1;
      at += 2;
    } else if (source.startsWith('*/', at)) {
      depth -= 1;
      at += 2;
    } else {
      if (source[at] === '\n') lines += 1;
      at += 1;
    }
  } while (depth > 0);
  ends(at);
  return lines;
}

function text(source: string, start: number, line: number): { value: string; end: number } {
  let value = '';
  let at = start + 1;
  for (;;) {
    const next = source[at];
    if (next === undefined || next === '\n') throw new CandidError(`line ${line}: a text has no end`);
    at += 1;
    if (next === '"') return { value, end: at };
    if (next !== '\\') {
      value += next;
      continue;
    }
    const escape = source[at] ?? '';
    const plain = ESCAPES[escape];
    const unicode = /^u\{([0-9a-fA-F_]+)\}/.exec(source.slice(at, at + 12));
    if (plain !== undefined) {
      value += plain;
      at += 1;
    } else if (unicode) {
      const code = Number.parseInt(unicode[1]!.replaceAll('_', ''), 16);
      if (!(code <= 0x10ffff)) throw new CandidError(`line ${line}: there is no such character: ${unicode[0]}`);
      value += String.fromCodePoint(code);
      at += unicode[0].length;
    } else {
      throw new CandidError(`line ${line}: unknown escape \\${escape}`);
    }
  }
}
