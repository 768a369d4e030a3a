// Asks every replica once a second and keeps what they said.
import { askBlocks, askNetwork, askStatus, type Block, type Network, type Status } from './answers.ts';

export const PERIOD_MS = 1000;
// As many as replicas remember.
const BLOCKS_KEPT = 128;
// Asked again although known, because they may have been certified since.
const BLOCKS_ASKED_AGAIN = 8;

// A replica as it was last heard of.
export interface Seen {
  url: string;
  network: Network | undefined;
  status: Status | undefined;
  blocks: Map<number, Block>;
  // Why it did not answer last time.
  error: string | undefined;
}

export class Watch {
  seen: Seen[] = [];
  // Counts rounds: what is shown is of the last one.
  round = 0;
  private readonly listeners = new Set<() => void>();

  constructor(private readonly origin: string) {}

  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  // Goes on until the page is left.
  async run(): Promise<never> {
    for (;;) {
      const started = performance.now();
      await this.look();
      const rest = PERIOD_MS - (performance.now() - started);
      await new Promise(resolve => setTimeout(resolve, Math.max(rest, 50)));
    }
  }

  async look(): Promise<void> {
    await this.findReplicas();
    await Promise.all(this.seen.map(replica => this.hear(replica)));
    this.round += 1;
    for (const listener of this.listeners) listener();
  }

  // Those that this page's replica names; it alone, if it names none or does not answer. Ports may change, so it is
  // asked each time.
  private async findReplicas(): Promise<void> {
    const network = await askNetwork(this.origin).catch(() => undefined);
    if (!network) {
      if (this.seen.length === 0) this.seen = [unseen(this.origin)];
      return;
    }
    const urls = network.replicas.length === 0 ? [this.origin] : network.replicas;
    this.seen = urls.map(url => this.seen.find(known => known.url === url) ?? unseen(url));
  }

  private async hear(replica: Seen): Promise<void> {
    const newest = Math.max(0, ...replica.blocks.keys());
    const after = Math.max(0, newest - BLOCKS_ASKED_AGAIN);
    try {
      replica.network ??= await askNetwork(replica.url);
      const [status, blocks] = await Promise.all([
        askStatus(replica.url),
        askBlocks(replica.url, after, BLOCKS_KEPT),
      ]);
      // Another network, or one begun anew, at the same address.
      if (status.executed_height < newest || status.subnet_id !== replica.network.subnet_id) {
        replica.blocks.clear();
        replica.network = undefined;
      }
      replica.status = status;
      for (const block of blocks) replica.blocks.set(block.height, block);
      for (const height of [...replica.blocks.keys()].sort((a, b) => a - b).slice(0, -BLOCKS_KEPT)) {
        replica.blocks.delete(height);
      }
      replica.error = undefined;
    } catch (error) {
      replica.error = error instanceof Error ? error.message : String(error);
    }
  }
}

function unseen(url: string): Seen {
  return { url, network: undefined, status: undefined, blocks: new Map(), error: undefined };
}
