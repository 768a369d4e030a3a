// What a person has entered for a value, before it is one.
import type { Type } from '../candid/syntax.ts';
import { resolve } from '../candid/syntax.ts';

export type Draft =
  | { kind: 'nothing' }
  | { kind: 'text'; text: string }
  | { kind: 'bool'; value: boolean }
  | { kind: 'opt'; some: Draft | undefined }
  | { kind: 'vec'; items: Draft[] }
  | { kind: 'record'; fields: Record<string, Draft> }
  | { kind: 'variant'; label: string; value: Draft }
  | { kind: 'func'; service: string; method: string };

type Types = Map<string, Type>;

// An empty draft of a type; nothing if the type has no finite value.
export function empty(of: Type, types: Types, within: ReadonlySet<string> = new Set()): Draft | undefined {
  let inside = within;
  if (of.kind === 'name') {
    if (within.has(of.name)) return undefined;
    inside = new Set([...within, of.name]);
  }
  const type = resolve(of, types);
  switch (type.kind) {
    case 'primitive':
      switch (type.primitive) {
        case 'null':
        case 'reserved':
          return { kind: 'nothing' };
        case 'empty':
          return undefined;
        case 'bool':
          return { kind: 'bool', value: false };
        default:
          return { kind: 'text', text: '' };
      }
    case 'blob':
    case 'service':
      return { kind: 'text', text: '' };
    case 'opt':
      return { kind: 'opt', some: undefined };
    case 'vec':
      return { kind: 'vec', items: [] };
    case 'record': {
      const fields: Record<string, Draft> = {};
      for (const field of type.fields) {
        const draft = empty(field.type, types, inside);
        if (!draft) return undefined;
        fields[field.label] = draft;
      }
      return { kind: 'record', fields };
    }
    case 'variant':
      // The first alternative that ends: one may be the type itself.
      for (const field of type.fields) {
        const value = empty(field.type, types, inside);
        if (value) return { kind: 'variant', label: field.label, value };
      }
      return undefined;
    case 'func':
      return { kind: 'func', service: '', method: '' };
  }
}
