// The types with which `@icp-sdk/core` encodes and decodes, for types of an interface.
import { IDL } from '@icp-sdk/core/candid';
import { resolve, type Argument, type Field, type Interface, type Primitive, type Signature, type Type } from './syntax.ts';

const PRIMITIVE_TYPES: Record<Primitive, IDL.Type> = {
  null: IDL.Null,
  bool: IDL.Bool,
  nat: IDL.Nat,
  int: IDL.Int,
  nat8: IDL.Nat8,
  nat16: IDL.Nat16,
  nat32: IDL.Nat32,
  nat64: IDL.Nat64,
  int8: IDL.Int8,
  int16: IDL.Int16,
  int32: IDL.Int32,
  int64: IDL.Int64,
  float32: IDL.Float32,
  float64: IDL.Float64,
  text: IDL.Text,
  reserved: IDL.Reserved,
  empty: IDL.Empty,
  principal: IDL.Principal,
};

// Makes types of one interface. A name that occurs within itself becomes a recursive type; others are what they stand
// for.
export class Encoding {
  private readonly done = new Map<string, IDL.Type>();
  private readonly open = new Map<string, IDL.RecClass | undefined>();

  constructor(private readonly described: Interface) {}

  encode(args: Argument[], values: unknown[]): Uint8Array {
    return IDL.encode(this.all(args), values);
  }

  decode(results: Argument[], bytes: Uint8Array): unknown[] {
    return IDL.decode(this.all(results), bytes);
  }

  type(type: Type): IDL.Type {
    switch (type.kind) {
      case 'primitive':
        return PRIMITIVE_TYPES[type.primitive];
      case 'name':
        return this.named(type.name);
      case 'blob':
        return IDL.Vec(IDL.Nat8);
      case 'opt':
        return IDL.Opt(this.type(type.of));
      case 'vec':
        return IDL.Vec(this.type(type.of));
      case 'record':
        return IDL.Record(this.fields(type.fields));
      case 'variant':
        return IDL.Variant(this.fields(type.fields));
      case 'func':
        return this.func(type.signature);
      case 'service': {
        const methods = type.methods.map(method => [method.name, this.type(method.type)] as const);
        return IDL.Service(Object.fromEntries(methods) as Record<string, IDL.FuncClass>);
      }
    }
  }

  private all(types: Argument[]): IDL.Type[] {
    return types.map(({ type }) => this.type(type));
  }

  private fields(fields: Field[]): Record<string, IDL.Type> {
    return Object.fromEntries(fields.map(field => [field.label, this.type(field.type)]));
  }

  private func(signature: Signature): IDL.FuncClass {
    const annotations = signature.mode === 'update' ? [] : [signature.mode];
    const args = this.all(signature.args) as IDL.GenericIdlFuncArgs;
    return IDL.Func(args, this.all(signature.results) as IDL.GenericIdlFuncRets, annotations);
  }

  private named(name: string): IDL.Type {
    const known = this.done.get(name);
    if (known) return known;
    if (this.open.has(name)) {
      const recursive = this.open.get(name) ?? IDL.Rec();
      this.open.set(name, recursive);
      return recursive;
    }
    this.open.set(name, undefined);
    const type = this.type(resolve({ kind: 'name', name }, this.described.types));
    const recursive = this.open.get(name);
    this.open.delete(name);
    // A recursive type is filled with what has no name of its own.
    recursive?.fill(type as IDL.ConstructType);
    const made = recursive ?? type;
    this.done.set(name, made);
    return made;
  }
}
