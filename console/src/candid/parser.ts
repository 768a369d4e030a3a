// Reads interface descriptions (`.did`) by the grammar of the Candid specification.
import { tokens, type Token } from './lexer.ts';
import {
  CandidError, PRIMITIVES, type Argument, type Field, type Interface, type Method, type Mode, type Primitive,
  type Signature, type Type,
} from './syntax.ts';

// Deeper types are refused, lest the stack end first.
const DEPTH_MAX = 200;
const LABEL_MAX = 2 ** 32;

// The interface that a text describes.
export function parse(source: string): Interface {
  return new Parser(tokens(source)).program();
}

class Parser {
  private at = 0;
  private depth = 0;

  constructor(private readonly tokens: Token[]) {}

  program(): Interface {
    const described: Interface = { types: new Map(), init: undefined, service: undefined };
    while (!this.isAtEnd) {
      if (this.takeWord('type')) {
        const name = this.word('the name of a type');
        this.expect('=');
        if (described.types.has(name)) this.fail(`type ${name} is defined twice`);
        if (isPrimitive(name)) this.fail(`type ${name} is Candid's own`);
        described.types.set(name, this.type());
      } else if (this.isWord('import')) {
        this.fail('imports are not supported: a canister gives its interface in one piece');
      } else if (this.takeWord('service')) {
        this.service(described);
      } else {
        this.fail('expected a type or a service');
      }
      // A service may follow without one.
      if (!this.take(';') && !this.isAtEnd && !this.isWord('service')) this.fail('expected ;');
    }
    return described;
  }

  private service(described: Interface): void {
    if (described.service) this.fail('there are two services');
    if (this.next.kind === 'word') this.at += 1;
    this.expect(':');
    if (this.isSymbol('(')) {
      described.init = this.tuple();
      this.expect('->');
    }
    described.service = this.isSymbol('{')
      ? { kind: 'service', methods: this.methods() }
      : { kind: 'name', name: this.word('the name of a service') };
  }

  private type(): Type {
    this.depth += 1;
    if (this.depth > DEPTH_MAX) this.fail('types are nested too deeply');
    const type = this.anyType();
    this.depth -= 1;
    return type;
  }

  private anyType(): Type {
    const name = this.word('a type');
    switch (name) {
      case 'opt':
        return { kind: 'opt', of: this.type() };
      case 'vec': {
        const of = this.type();
        const isByte = of.kind === 'primitive' && of.primitive === 'nat8';
        return isByte ? { kind: 'blob' } : { kind: 'vec', of };
      }
      case 'blob':
        return { kind: 'blob' };
      case 'record':
        return { kind: 'record', fields: this.fields(true) };
      case 'variant':
        return { kind: 'variant', fields: this.fields(false) };
      case 'func':
        return { kind: 'func', signature: this.signature() };
      case 'service':
        return { kind: 'service', methods: this.methods() };
      default:
        return isPrimitive(name) ? { kind: 'primitive', primitive: name } : { kind: 'name', name };
    }
  }

  private fields(inRecord: boolean): Field[] {
    const fields: Field[] = [];
    let number = 0;
    this.list('{', ';', '}', () => {
      const { docs } = this.next;
      const behind = this.tokens[this.at + 1];
      const isLabeled = behind?.kind === 'symbol' && behind.value === ':';
      let label: string;
      let type: Type = { kind: 'primitive', primitive: 'null' };
      if (isLabeled || !inRecord) {
        label = this.label();
        if (this.take(':')) type = this.type();
        const given = /^_(\d+)_$/.exec(label);
        if (given) number = Number(given[1]) + 1;
      } else {
        label = `_${number}_`;
        number += 1;
        type = this.type();
      }
      if (fields.some(field => field.label === label)) this.fail(`field ${label} is there twice`);
      fields.push({ label, type, docs });
    });
    return fields;
  }

  private label(): string {
    const token = this.advance();
    if (token.kind === 'word' || token.kind === 'text') return token.value;
    if (token.kind !== 'number') return this.fail('expected a label', token);
    const number = Number(token.value);
    if (!(number < LABEL_MAX)) this.fail(`label ${token.value} is too large`, token);
    return `_${number}_`;
  }

  private methods(): Method[] {
    const methods: Method[] = [];
    this.list('{', ';', '}', () => {
      const token = this.advance();
      if (token.kind !== 'word' && token.kind !== 'text') this.fail('expected the name of a method', token);
      this.expect(':');
      if (methods.some(method => method.name === token.value)) this.fail(`method ${token.value} is there twice`);
      const type: Type = this.isSymbol('(')
        ? { kind: 'func', signature: this.signature() }
        : { kind: 'name', name: this.word('the type of a method') };
      methods.push({ name: token.value, type, docs: token.docs });
    });
    return methods;
  }

  private signature(): Signature {
    const args = this.tuple();
    this.expect('->');
    const results = this.tuple();
    let mode: Mode = 'update';
    while (this.isWord('query') || this.isWord('composite_query') || this.isWord('oneway')) {
      mode = this.advance().value as Mode;
    }
    return { args, results, mode };
  }

  private tuple(): Argument[] {
    const found: Argument[] = [];
    this.list('(', ',', ')', () => {
      const behind = this.tokens[this.at + 1];
      const isNamed = behind?.kind === 'symbol' && behind.value === ':';
      let name: string | undefined;
      if (isNamed) {
        const token = this.advance();
        if (token.kind !== 'word' && token.kind !== 'text') this.fail('expected the name of an argument', token);
        name = token.value;
        this.expect(':');
      }
      found.push({ name, type: this.type() });
    });
    return found;
  }

  private list(open: string, separator: string, close: string, item: () => void): void {
    this.expect(open);
    while (!this.take(close)) {
      item();
      if (!this.take(separator) && !this.isSymbol(close)) this.fail(`expected ${separator} or ${close}`);
    }
  }

  private get next(): Token {
    return this.tokens[this.at]!;
  }

  private get isAtEnd(): boolean {
    return this.next.kind === 'end';
  }

  private advance(): Token {
    const token = this.next;
    if (!this.isAtEnd) this.at += 1;
    return token;
  }

  private isSymbol(symbol: string): boolean {
    return this.next.kind === 'symbol' && this.next.value === symbol;
  }

  private isWord(word: string): boolean {
    return this.next.kind === 'word' && this.next.value === word;
  }

  private take(symbol: string): boolean {
    const is = this.isSymbol(symbol);
    if (is) this.at += 1;
    return is;
  }

  private takeWord(word: string): boolean {
    const is = this.isWord(word);
    if (is) this.at += 1;
    return is;
  }

  private expect(symbol: string): void {
    if (!this.take(symbol)) this.fail(`expected ${symbol}`);
  }

  private word(what: string): string {
    const token = this.advance();
    if (token.kind !== 'word') this.fail(`expected ${what}`, token);
    return token.value;
  }

  private fail(what: string, token = this.next): never {
    const found = token.kind === 'end' ? 'the end' : JSON.stringify(token.value);
    throw new CandidError(`line ${token.line}: ${what}, at ${found}`);
  }
}

function isPrimitive(name: string): name is Primitive {
  return (PRIMITIVES as readonly string[]).includes(name);
}
