// What an interface description says: Candid's types, methods and services as a tree.
//
// Names stay names: a recursive type is finite here. `Interface.types` says what they stand for.

export const PRIMITIVES = [
  'null', 'bool', 'nat', 'int', 'nat8', 'nat16', 'nat32', 'nat64', 'int8', 'int16', 'int32', 'int64', 'float32',
  'float64', 'text', 'reserved', 'empty', 'principal',
] as const;

export type Primitive = (typeof PRIMITIVES)[number];

export type Type =
  | { kind: 'primitive'; primitive: Primitive }
  | { kind: 'name'; name: string }
  | { kind: 'blob' }
  | { kind: 'opt'; of: Type }
  | { kind: 'vec'; of: Type }
  | { kind: 'record'; fields: Field[] }
  | { kind: 'variant'; fields: Field[] }
  | { kind: 'func'; signature: Signature }
  | { kind: 'service'; methods: Method[] };

// `label` is the name, or `_0_` for the number 0, as the library that encodes writes them.
export interface Field {
  label: string;
  type: Type;
  docs: string;
}

export interface Argument {
  name: string | undefined;
  type: Type;
}

export type Mode = 'update' | 'query' | 'composite_query' | 'oneway';

export interface Signature {
  args: Argument[];
  results: Argument[];
  mode: Mode;
}

// A method's type is a signature, or the name of one.
export interface Method {
  name: string;
  type: Type;
  docs: string;
}

export interface Interface {
  types: Map<string, Type>;
  // What an installation takes; nothing if the service is no constructor.
  init: Argument[] | undefined;
  service: Type | undefined;
}

// The interface says something that makes no sense.
export class CandidError extends Error {
  override readonly name = 'CandidError';
}

// What a name stands for in the end.
export function resolve(type: Type, types: Map<string, Type>): Exclude<Type, { kind: 'name' }> {
  const seen = new Set<string>();
  let found = type;
  while (found.kind === 'name') {
    if (seen.has(found.name)) throw new CandidError(`type ${found.name} stands for itself alone`);
    seen.add(found.name);
    const next = types.get(found.name);
    if (!next) throw new CandidError(`type ${found.name} is not defined`);
    found = next;
  }
  return found;
}

// A method with its signature.
export interface Callable {
  name: string;
  docs: string;
  signature: Signature;
}

// The methods of the service, in the order of the text.
export function methods(described: Interface): Callable[] {
  if (!described.service) return [];
  const service = resolve(described.service, described.types);
  if (service.kind !== 'service') throw new CandidError('what is called a service is none');
  return service.methods.map(method => {
    const type = resolve(method.type, described.types);
    if (type.kind !== 'func') throw new CandidError(`method ${method.name} is no function`);
    return { name: method.name, docs: method.docs, signature: type.signature };
  });
}

// Whether a record is a tuple: its labels are the numbers from 0 on.
export function isTuple(fields: Field[]): boolean {
  return fields.length > 0 && fields.every((field, index) => field.label === `_${index}_`);
}

// A label as Candid writes it.
export function labelText(label: string): string {
  const number = /^_(\d+)_$/.exec(label);
  if (number) return number[1]!;
  return /^[A-Za-z_][A-Za-z0-9_]*$/.test(label) ? label : JSON.stringify(label);
}

// A type in one line, names kept.
export function typeText(type: Type): string {
  switch (type.kind) {
    case 'primitive':
      return type.primitive;
    case 'name':
      return type.name;
    case 'blob':
      return 'blob';
    case 'opt':
    case 'vec':
      return `${type.kind} ${typeText(type.of)}`;
    case 'record':
      if (isTuple(type.fields)) return `record { ${type.fields.map(field => typeText(field.type)).join('; ')} }`;
      return `record { ${type.fields.map(fieldText).join('; ')} }`;
    case 'variant':
      return `variant { ${type.fields.map(fieldText).join('; ')} }`;
    case 'func':
      return `func ${signatureText(type.signature)}`;
    case 'service':
      return `service { ${type.methods.map(method => `${method.name} : …`).join('; ')} }`;
  }
}

function fieldText(field: Field): string {
  const isNull = field.type.kind === 'primitive' && field.type.primitive === 'null';
  return isNull ? labelText(field.label) : `${labelText(field.label)} : ${typeText(field.type)}`;
}

export function signatureText(signature: Signature): string {
  const list = (types: Argument[]) =>
    `(${types.map(({ name, type }) => (name ? `${name} : ${typeText(type)}` : typeText(type))).join(', ')})`;
  const mode = signature.mode === 'update' ? '' : ` ${signature.mode}`;
  return `${list(signature.args)} -> ${list(signature.results)}${mode}`;
}
