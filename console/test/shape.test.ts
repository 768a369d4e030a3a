// Answers of any shape are refused or fit.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allShaped, shaped, type Shape } from '../src/data/shape.ts';

interface Thing {
  name: string;
  size: number;
  note: string | null;
  parts: string[];
}

const THING: Shape<Thing> = { name: 'string', size: 'number', note: 'string?', parts: 'strings' };
const GOOD = { name: 'a', size: 1, note: null, parts: ['b'] };

test('answers fit', () => {
  assert.deepEqual(shaped<Thing>(GOOD, THING), GOOD);
  assert.deepEqual(allShaped<Thing>([GOOD, { ...GOOD, note: 'x', more: true }], THING).length, 2);
});

test('answers that do not fit are refused', () => {
  const wrong = [null, undefined, 5, 'text', [], {}, { ...GOOD, name: null }, { ...GOOD, size: '1' }, { ...GOOD, parts: [1] }];
  for (const value of wrong) assert.throws(() => shaped<Thing>(value, THING), /not one of a replica/, JSON.stringify(value));
  assert.throws(() => allShaped<Thing>({ 0: GOOD }, THING), /no list/);
  assert.throws(() => allShaped<Thing>([GOOD, {}], THING), /name is no string/);
});
