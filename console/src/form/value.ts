// Drafts to values as the library encodes them.
import { Principal } from '@icp-sdk/core/principal';
import { labelText, resolve, type Primitive, type Type } from '../candid/syntax.ts';
import type { Draft } from './draft.ts';

// An entry is no value of its type. `path` says where, as labels from the argument on.
export class EntryError extends Error {
  override readonly name = 'EntryError';

  constructor(
    readonly path: string,
    readonly reason: string,
  ) {
    super(`${path}: ${reason}`);
  }
}

type Types = Map<string, Type>;

const WIDTHS: Partial<Record<Primitive, [bigint, bigint]>> = {
  nat8: [0n, 2n ** 8n - 1n],
  nat16: [0n, 2n ** 16n - 1n],
  nat32: [0n, 2n ** 32n - 1n],
  nat64: [0n, 2n ** 64n - 1n],
  int8: [-(2n ** 7n), 2n ** 7n - 1n],
  int16: [-(2n ** 15n), 2n ** 15n - 1n],
  int32: [-(2n ** 31n), 2n ** 31n - 1n],
  int64: [-(2n ** 63n), 2n ** 63n - 1n],
};

// The value that a draft of a type stands for.
export function value(of: Type, draft: Draft, types: Types, path: string): unknown {
  const type = resolve(of, types);
  switch (type.kind) {
    case 'primitive':
      if (draft.kind === 'bool') return draft.value;
      return draft.kind === 'text' ? primitive(type.primitive, draft.text, path) : null;
    case 'blob':
      return draft.kind === 'text' ? blob(draft.text, path) : mismatch(path);
    case 'service':
      return draft.kind === 'text' ? principal(draft.text, path) : mismatch(path);
    case 'opt':
      if (draft.kind !== 'opt') return mismatch(path);
      return draft.some ? [value(type.of, draft.some, types, path)] : [];
    case 'vec':
      if (draft.kind !== 'vec') return mismatch(path);
      return draft.items.map((item, index) => value(type.of, item, types, `${path}[${index}]`));
    case 'record': {
      if (draft.kind !== 'record') return mismatch(path);
      const entries = type.fields.map(field => {
        const entry = draft.fields[field.label];
        const inside = `${path}.${labelText(field.label)}`;
        return [field.label, entry ? value(field.type, entry, types, inside) : mismatch(inside)];
      });
      return Object.fromEntries(entries);
    }
    case 'variant': {
      if (draft.kind !== 'variant') return mismatch(path);
      const field = type.fields.find(field => field.label === draft.label);
      if (!field) return mismatch(path);
      const inside = `${path}.${labelText(field.label)}`;
      return { [field.label]: value(field.type, draft.value, types, inside) };
    }
    case 'func':
      if (draft.kind !== 'func') return mismatch(path);
      if (draft.method === '') throw new EntryError(path, 'a method has a name');
      return [principal(draft.service, path), draft.method];
  }
}

function mismatch(path: string): never {
  throw new EntryError(path, 'nothing is entered');
}

function primitive(name: Primitive, text: string, path: string): unknown {
  const trimmed = text.trim();
  switch (name) {
    case 'text':
      return text;
    case 'principal':
      return principal(trimmed, path);
    case 'float32':
    case 'float64': {
      const number = trimmed === '' ? Number.NaN : Number(trimmed);
      if (Number.isNaN(number) && trimmed !== 'NaN') throw new EntryError(path, 'it takes a number');
      return number;
    }
    default:
      return integer(name, trimmed, path);
  }
}

function integer(name: Primitive, text: string, path: string): bigint | number {
  if (!/^[+-]?[0-9][0-9_]*$/.test(text)) throw new EntryError(path, 'it takes a whole number');
  const number = BigInt(text.replaceAll('_', '').replace(/^\+/, ''));
  if (name === 'nat' && number < 0n) throw new EntryError(path, 'it takes a number that is not negative');
  const width = WIDTHS[name];
  if (!width) return number;
  const [least, most] = width;
  if (number < least || number > most) throw new EntryError(path, `it takes ${least} to ${most}`);
  return name.endsWith('64') ? number : Number(number);
}

function principal(text: string, path: string): Principal {
  try {
    return Principal.fromText(text.trim());
  } catch {
    throw new EntryError(path, 'it takes a principal, like aaaaa-aa');
  }
}

// Bytes in hexadecimal, or a text in quotes for its UTF-8.
function blob(text: string, path: string): Uint8Array {
  const trimmed = text.trim();
  const quoted = /^"(.*)"$/s.exec(trimmed);
  if (quoted) return new TextEncoder().encode(quoted[1]);
  const digits = trimmed.replace(/^0x/, '').replace(/\s+/g, '');
  if (!/^([0-9a-fA-F]{2})*$/.test(digits)) {
    throw new EntryError(path, 'it takes bytes in hexadecimal, or "text" in quotes');
  }
  const bytes = digits.match(/../g) ?? [];
  return Uint8Array.from(bytes, byte => Number.parseInt(byte, 16));
}
