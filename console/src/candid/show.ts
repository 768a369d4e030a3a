// Decoded values in Candid's text format.
import { Principal } from '@icp-sdk/core/principal';
import { isTuple, labelText, resolve, type Argument, type Field, type Type } from './syntax.ts';

type Types = Map<string, Type>;

// The values of a reply, each on lines of its own.
export function showAll(types: Argument[], values: unknown[], names: Types): string {
  if (types.length === 0) return '()';
  return types.map(({ type }, index) => show(type, values[index], names)).join(',\n');
}

// A value; lines behind the first begin with `indent`.
export function show(of: Type, value: unknown, names: Types, indent = ''): string {
  const type = resolve(of, names);
  const inner = `${indent}  `;
  switch (type.kind) {
    case 'primitive':
      return primitive(type.primitive, value);
    case 'blob':
      return bytes(value as Iterable<number>);
    case 'opt': {
      const held = value as unknown[];
      return held.length === 0 ? 'null' : `opt ${show(type.of, held[0], names, indent)}`;
    }
    case 'vec': {
      const items = Array.from(value as Iterable<unknown>, item => show(type.of, item, names, inner));
      return braces('vec', items, indent);
    }
    case 'record': {
      const record = value as Record<string, unknown>;
      const plain = isTuple(type.fields);
      const items = type.fields.map(field => {
        const shown = show(field.type, record[field.label], names, inner);
        return plain ? shown : `${labelText(field.label)} = ${shown}`;
      });
      return braces('record', items, indent);
    }
    case 'variant':
      return variant(type.fields, value as Record<string, unknown>, names, indent);
    case 'func': {
      const [service, method] = value as [Principal, string];
      return `func ${JSON.stringify(service.toText())}.${labelText(method)}`;
    }
    case 'service':
      return `service ${JSON.stringify((value as Principal).toText())}`;
  }
}

function primitive(name: string, value: unknown): string {
  switch (name) {
    case 'null':
    case 'reserved':
    case 'empty':
      return name === 'null' ? 'null' : `(${name})`;
    case 'text':
      return JSON.stringify(value);
    case 'principal':
      return `principal ${JSON.stringify((value as Principal).toText())}`;
    case 'float32':
    case 'float64':
      return Number.isInteger(value) && Math.abs(value as number) < 1e15 ? `${value}.0` : String(value);
    case 'bool':
      return String(value);
    default:
      return grouped(value as bigint | number);
  }
}

// An integer with its digits in threes.
export function grouped(value: bigint | number): string {
  return String(value).replace(/\B(?=(\d{3})+$)/g, '_');
}

function variant(fields: Field[], value: Record<string, unknown>, names: Types, indent: string): string {
  const field = fields.find(field => Object.hasOwn(value, field.label));
  if (!field) return 'variant { ? }';
  const type = resolve(field.type, names);
  const label = labelText(field.label);
  if (type.kind === 'primitive' && type.primitive === 'null') return `variant { ${label} }`;
  return `variant { ${label} = ${show(type, value[field.label], names, indent)} }`;
}

function braces(keyword: string, items: string[], indent: string): string {
  const oneLine = `${keyword} { ${items.join('; ')} }`;
  if (items.length === 0) return `${keyword} {}`;
  if (oneLine.length + indent.length <= 72 && !oneLine.includes('\n')) return oneLine;
  return `${keyword} {\n${items.map(item => `${indent}  ${item};\n`).join('')}${indent}}`;
}

function bytes(value: Iterable<number>): string {
  return `0x${hex(value)}`;
}

export function hex(value: Iterable<number>): string {
  return Array.from(value, byte => byte.toString(16).padStart(2, '0')).join('');
}
