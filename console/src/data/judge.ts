// Whether replicas agree, by what each of them says.
import type { Seen } from './watch.ts';

// A height at which replicas say different things.
export interface Disagreement {
  height: number;
  // What each says, in the order of the replicas; nothing from those that do not know the height.
  roots: (string | undefined)[];
}

export interface Judgement {
  // Heights with different roots, newest first.
  disagreements: Disagreement[];
  halted: { index: number; reason: string }[];
  silent: { index: number; reason: string }[];
  // Whether they give different root keys for the subnet.
  keysDiffer: boolean;
  // The newest height that all replicas that answer know, and agree about; 0 if there is none.
  agreedHeight: number;
}

export function judge(replicas: Seen[]): Judgement {
  const heights = new Set(replicas.flatMap(replica => [...replica.blocks.keys()]));
  const disagreements: Disagreement[] = [];
  let agreedHeight = 0;
  const answering = replicas.filter(replica => replica.status && !replica.error);
  for (const height of heights) {
    const roots = replicas.map(replica => replica.blocks.get(height)?.root);
    const different = new Set(roots.filter(root => root !== undefined));
    if (different.size > 1) {
      disagreements.push({ height, roots });
    } else if (answering.length > 0 && answering.every(replica => replica.blocks.has(height))) {
      agreedHeight = Math.max(agreedHeight, height);
    }
  }
  disagreements.sort((a, b) => b.height - a.height);
  const keys = replicas.flatMap(replica => (replica.network ? [replica.network.root_key] : []));
  return {
    disagreements,
    halted: replicas.flatMap(({ status }, index) => (status?.halted ? [{ index, reason: status.halted }] : [])),
    silent: replicas.flatMap(({ error }, index) => (error ? [{ index, reason: error }] : [])),
    keysDiffer: new Set(keys).size > 1,
    agreedHeight,
  };
}
