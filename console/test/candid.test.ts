// The parser on the interfaces that canisters out there have, and on what is no interface.
import { IDL } from '@icp-sdk/core/candid';
import { Principal } from '@icp-sdk/core/principal';
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { Encoding } from '../src/candid/encoding.ts';
import { parse } from '../src/candid/parser.ts';
import { show } from '../src/candid/show.ts';
import { CandidError, methods, signatureText, typeText, type Type } from '../src/candid/syntax.ts';
import { empty } from '../src/form/draft.ts';

// Interfaces of the public packages, and of this repository's canisters.
function interfaces(): [string, string][] {
  const folders = ['node_modules/@icp-sdk/canisters/declarations', process.env.LOCKSTEP_CANISTERS ?? ''];
  const found: [string, string][] = [];
  for (const folder of folders.filter(folder => existsSync(folder))) {
    for (const path of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
      if (path.endsWith('.did')) found.push([path, readFileSync(join(folder, path), 'utf8')]);
    }
  }
  return found;
}

test('every interface that is known is read, and its types encode', () => {
  const all = interfaces();
  const names = all.map(([path]) => basename(path));
  for (const name of ['icrc_icrc-1.did', 'icrc_ledger.did', 'ic-management.did', 'governance.did', 'ledger.did', 'llm.did', 'matmul.did', 'batch.did']) {
    assert.ok(names.includes(name), `${name} is among ${names.join(', ')}`);
  }
  assert.ok(all.length >= 27, `${all.length} interfaces`);
  let seen = 0;
  for (const [path, text] of all) {
    const described = parse(text);
    const encoding = new Encoding(described);
    for (const { name, signature } of methods(described)) {
      seen += 1;
      for (const { type } of [...signature.args, ...signature.results]) {
        encoding.type(type);
        assert.ok(empty(type, described.types), `${path} ${name} can be filled in`);
      }
      // What is printed is read again, and means the same.
      const again = parse(`service : { m : ${signatureText(signature)} }`);
      const [method] = methods(again);
      assert.equal(signatureText(method!.signature), signatureText(signature), `${path} ${name}`);
    }
    for (const { type } of described.init ?? []) encoding.type(type);
  }
  assert.ok(seen > 300, `${seen} methods`);
});

test('types are those that the library makes by hand', () => {
  const described = parse(`
    type Account = record { owner : principal; subaccount : opt blob };
    type List = opt record { int; List };
    type Tree = variant { Leaf : nat8; Fork : record { left : Tree; right : Tree } };
    service : (Account) -> {
      send : (to : Account, "the amount" : nat) -> (variant { Ok : nat; Err : text });
      list : (List) -> (Tree) query;
    }`);
  const encoding = new Encoding(described);
  const account = { owner: Principal.anonymous(), subaccount: [Uint8Array.of(1, 2)] };
  const [send, list] = methods(described);
  const byHand = IDL.encode(
    [IDL.Record({ owner: IDL.Principal, subaccount: IDL.Opt(IDL.Vec(IDL.Nat8)) }), IDL.Nat],
    [account, 5n],
  );
  assert.deepEqual(encoding.encode(send!.signature.args, [account, 5n]), byHand);
  const values = [[{ _0_: 1n, _1_: [{ _0_: 2n, _1_: [] }] }]];
  const bytes = encoding.encode(list!.signature.args, values);
  assert.deepEqual(encoding.decode(list!.signature.args, bytes), values);
  const tree = { Fork: { left: { Leaf: 1 }, right: { Fork: { left: { Leaf: 2 }, right: { Leaf: 3 } } } } };
  const grown = encoding.encode(list!.signature.results, [tree]);
  assert.deepEqual(encoding.decode(list!.signature.results, grown), [tree]);
});

test('modes, comments, labels and references', () => {
  const described = parse(`
    // About nothing.

    // A callback.
    type F = func (nat) -> () oneway;
    type S = service { f : F; "g h" : () -> (F) composite_query };
    /* outer /* inner */ service : { no : () -> () } */
    service counter : {
      // Adds.
      // And returns.
      add : (nat, by : opt nat) -> (nat); // behind it
      f : F;
      "with space" : (S, record { 5 : text; nat; named : bool; 0x10 : null }) -> () query;
      type : (text : text) -> (principal : principal) query;
    };`);
  const [add, f, spaced, named] = methods(described);
  assert.equal(add!.docs, 'Adds.\nAnd returns.');
  assert.equal(signatureText(add!.signature), '(nat, by : opt nat) -> (nat)');
  assert.equal(f!.signature.mode, 'oneway');
  assert.equal(f!.docs, '');
  const record = spaced!.signature.args[1]!.type;
  assert.equal(typeText(record), 'record { 5 : text; 6 : nat; named : bool; 16 }');
  assert.equal(named!.signature.args[0]!.name, 'text');
});

test('what is no interface says where', () => {
  const wrong: [string, RegExp][] = [
    ['service : {', /line 1: expected the name of a method, at the end/],
    ['service : { f : (nat) }', /line 1: expected ->, at "}"/],
    ['type A = nat\n;type A = int;', /line 2: type A is defined twice/],
    ['type A = vec;', /expected a type/],
    ['type nat = int;', /Candid's own/],
    ['import "other.did";', /imports are not supported/],
    ['type A = record { a : nat; a : int }', /field a is there twice/],
    ['type A = record { 4294967296 : nat }', /too large/],
    ['/* never', /a comment has no end/],
    ['service : { "f', /a text has no end/],
    ['service : { "\\q" : () -> () }', /unknown escape/],
    ['type A = €', /unexpected character/],
    ['service : {}; service : {}', /two services/],
    [`type A = ${'opt '.repeat(300)}nat`, /nested too deeply/],
  ];
  for (const [text, message] of wrong) {
    assert.throws(() => parse(text), error => error instanceof CandidError && message.test(error.message), text);
  }
  for (const text of ['type A = B; type B = A; service : { f : (A) -> () }', 'service : { f : (A) -> () }']) {
    const described = parse(text);
    const [f] = methods(described);
    assert.throws(() => new Encoding(described).type(f!.signature.args[0]!.type), CandidError, text);
  }
});

test('values are shown as Candid', () => {
  const types = new Map<string, Type>();
  const described = parse(`type T = record { a : opt nat; b : vec nat16; c : blob; d : variant { Ok; Err : text };
    e : record { text; int8 }; f : float64; "g h" : principal; i : func () -> (); n : null };`);
  const encoding = new Encoding(described);
  const type = described.types.get('T')!;
  const value = {
    a: [1234567n], b: [1, 2], c: Uint8Array.of(0, 255), d: { Err: 'no "way"' }, e: { _0_: 'x', _1_: -5 }, f: 2,
    'g h': Principal.anonymous(), i: [Principal.managementCanister(), 'go'], n: null,
  };
  const results = [{ name: undefined, type }];
  const [decoded] = encoding.decode(results, encoding.encode(results, [value]));
  assert.equal(
    show(type, decoded, types),
    `record {
  a = opt 1_234_567;
  b = vec { 1; 2 };
  c = 0x00ff;
  d = variant { Err = "no \\"way\\"" };
  e = record { "x"; -5 };
  f = 2.0;
  "g h" = principal "2vxsx-fae";
  i = func "aaaaa-aa".go;
  n = null;
}`,
  );
});
