// What is entered becomes a value, or is refused with the place where it is wrong.
import { Principal } from '@icp-sdk/core/principal';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parse } from '../src/candid/parser.ts';
import { empty, type Draft } from '../src/form/draft.ts';
import { EntryError, value } from '../src/form/value.ts';

const described = parse(`
  type Tree = variant { Fork : record { Tree; Tree }; Leaf : nat8 };
  type Endless = record { Endless };
  type All = record { n : nat; i : int64; f : float32; b : blob; p : principal; o : opt text; v : vec nat8; w : vec bool;
    t : Tree; u : null };`);
const named = (name: string) => ({ kind: 'name', name }) as const;
const text = (text: string): Draft => ({ kind: 'text', text });

test('drafts of recursive types end', () => {
  assert.deepEqual(empty(named('Tree'), described.types), { kind: 'variant', label: 'Leaf', value: text('') });
  assert.equal(empty(named('Endless'), described.types), undefined);
});

test('entries become values', () => {
  const draft = empty(named('All'), described.types);
  assert.ok(draft?.kind === 'record');
  const fields: Record<string, Draft> = {
    ...draft.fields,
    n: text(' 1_000 '),
    i: text('-9223372036854775808'),
    f: text('1.5e3'),
    b: text('"hé"'),
    p: text('aaaaa-aa'),
    o: { kind: 'opt', some: text(' kept as it is ') },
    v: text('0x00 ff'),
    w: { kind: 'vec', items: [{ kind: 'bool', value: true }] },
    t: { kind: 'variant', label: 'Leaf', value: text('255') },
  };
  assert.deepEqual(value(named('All'), { kind: 'record', fields }, described.types, 'argument'), {
    n: 1000n,
    i: -(2n ** 63n),
    f: 1500,
    b: new TextEncoder().encode('hé'),
    p: Principal.managementCanister(),
    o: [' kept as it is '],
    v: Uint8Array.of(0, 255),
    w: [true],
    t: { Leaf: 255 },
    u: null,
  });
});

test('wrong entries say where', () => {
  const wrong: [string, Draft, string][] = [
    ['n', text('-1'), 'argument.n'],
    ['n', text(''), 'argument.n'],
    ['n', text('1.5'), 'argument.n'],
    ['i', text('9223372036854775808'), 'argument.i'],
    ['f', text('many'), 'argument.f'],
    ['b', text('abc'), 'argument.b'],
    ['p', text('nobody'), 'argument.p'],
    ['t', { kind: 'variant', label: 'Leaf', value: text('256') }, 'argument.t.Leaf'],
  ];
  const filled: Record<string, Draft> = { n: text('1'), i: text('1'), f: text('1'), p: text('aaaaa-aa'), t: { kind: 'variant', label: 'Leaf', value: text('1') } };
  for (const [label, entry, path] of wrong) {
    const draft = empty(named('All'), described.types);
    assert.ok(draft?.kind === 'record');
    const all: Draft = { kind: 'record', fields: { ...draft.fields, ...filled, [label]: entry } };
    assert.throws(
      () => value(named('All'), all, described.types, 'argument'),
      error => error instanceof EntryError && error.path === path,
      `${label} ${JSON.stringify(entry)}`,
    );
  }
});
