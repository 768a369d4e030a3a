// When replicas agree, and when they do not.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Block, Network, Status } from '../src/data/answers.ts';
import { judge } from '../src/data/judge.ts';
import type { Seen } from '../src/data/watch.ts';

function replica(roots: Record<number, string>, more: { halted?: string; error?: string; key?: string } = {}): Seen {
  const blocks = Object.entries(roots).map(([height, root]) => [Number(height), { root } as Block] as const);
  return {
    url: '',
    network: { root_key: more.key ?? 'key' } as Network,
    status: { halted: more.halted ?? null } as Status,
    blocks: new Map(blocks),
    error: more.error,
  };
}

test('equal roots agree, at the newest height that all know', () => {
  const judgement = judge([replica({ 1: 'a', 2: 'b', 3: 'c' }), replica({ 1: 'a', 2: 'b' })]);
  assert.deepEqual(judgement, { disagreements: [], halted: [], silent: [], keysDiffer: false, agreedHeight: 2 });
});

test('a replica that does not answer holds nobody up', () => {
  const judgement = judge([replica({ 7: 'a' }), replica({ 1: 'z' }, { error: 'gone' })]);
  assert.equal(judgement.agreedHeight, 7);
  assert.deepEqual(judgement.silent, [{ index: 1, reason: 'gone' }]);
});

test('where nobody answers nobody agrees', () => {
  const judgement = judge([replica({ 7: 'a' }, { error: 'gone' }), replica({ 7: 'a' }, { error: 'gone' })]);
  assert.equal(judgement.agreedHeight, 0);
});

test('different roots, halts and keys are seen', () => {
  const judgement = judge([
    replica({ 4: 'a', 5: 'b', 6: 'c' }),
    replica({ 4: 'a', 5: 'x', 6: 'y' }, { halted: 'another state' }),
    replica({ 5: 'b' }, { key: 'other' }),
  ]);
  assert.deepEqual(judgement.disagreements, [
    { height: 6, roots: ['c', 'y', undefined] },
    { height: 5, roots: ['b', 'x', 'b'] },
  ]);
  assert.deepEqual(judgement.halted, [{ index: 1, reason: 'another state' }]);
  assert.equal(judgement.keysDiffer, true);
  assert.equal(judgement.agreedHeight, 0);
});
