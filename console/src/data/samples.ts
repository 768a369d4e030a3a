// What canisters used while this page was open: a sample each time one was looked at.
import type { Canister } from './answers.ts';

export interface Sample {
  heap: number;
  stable: number;
  cycles: number;
  // Since the sample before.
  instructions: number;
}

const KEPT = 120;
const samples = new Map<string, Sample[]>();
const last = new Map<string, Canister>();

// The samples of a canister, oldest first, the one of this answer included. An answer counts once.
export function remember(canister: Canister): Sample[] {
  const known = samples.get(canister.id) ?? [];
  const before = last.get(canister.id);
  if (before === canister) return known;
  last.set(canister.id, canister);
  const grown = before ? canister.instructions_executed - before.instructions_executed : 0;
  known.push({
    heap: canister.heap_bytes,
    stable: canister.stable_bytes,
    cycles: Number(canister.cycles),
    // A replica that began anew counts from nothing.
    instructions: Math.max(grown, 0),
  });
  if (known.length > KEPT) known.shift();
  samples.set(canister.id, known);
  return known;
}
