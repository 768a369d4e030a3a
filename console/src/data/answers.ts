// What replicas answer at `/_/lockstep/`. The Rust types of the same names say what each field is.
import { allShaped, shaped, type Shape } from './shape.ts';

export interface Status {
  node_id: string;
  subnet_id: string;
  executed_height: number;
  executed_root: string;
  executed_state: string;
  executed_time_ns: number;
  certified_height: number;
  certified_root: string | null;
  canisters: number;
  sessions: number;
  sessions_running: number;
  mempool_calls: number;
  blocks_executed: number;
  calls_executed: number;
  queries_answered: number;
  instructions_executed: number;
  halted: string | null;
}

export interface Network {
  node_id: string;
  subnet_id: string;
  root_key: string;
  replicas: string[];
  version: string;
}

export interface Block {
  height: number;
  time_ns: number;
  digest: string;
  root: string;
  certified: boolean;
  calls: number;
  messages: number;
  instructions: number;
  session_work: number;
}

export interface Canister {
  id: string;
  status: 'running' | 'stopping' | 'stopped';
  module_hash: string | null;
  version: number;
  controllers: string[];
  heap_bytes: number;
  stable_bytes: number;
  memory_bytes: number;
  cycles: string;
  cycles_consumed: string;
  instructions_executed: number;
}

export interface CanisterPage {
  height: number;
  total: number;
  canisters: Canister[];
  next: string | null;
}

const PATIENCE_MS = 4000;

// Answers of a replica. They are not certified: they are shown, and nothing relies on them.

export async function askStatus(replica: string): Promise<Status> {
  return shaped<Status>(await ask(replica, 'status'), {
    node_id: 'string', subnet_id: 'string', executed_height: 'number', executed_root: 'string', certified_height: 'number',
    certified_root: 'string?', mempool_calls: 'number', queries_answered: 'number', instructions_executed: 'number',
    halted: 'string?',
  });
}

export async function askNetwork(replica: string): Promise<Network> {
  const network = shaped<Network>(await ask(replica, 'network'), {
    node_id: 'string', subnet_id: 'string', root_key: 'string', replicas: 'strings', version: 'string',
  });
  return { ...network, replicas: network.replicas.filter(url => /^https?:\/\//.test(url)) };
}

export async function askBlocks(replica: string, after: number, limit: number): Promise<Block[]> {
  const blocks = allShaped<Block>(await ask(replica, `blocks?after=${after}&limit=${limit}`), {
    height: 'number', time_ns: 'number', digest: 'string', root: 'string', certified: 'boolean', calls: 'number',
    messages: 'number', instructions: 'number', session_work: 'number',
  });
  return blocks.slice(-limit);
}

const CANISTER: Shape<Canister> = {
  id: 'string', status: 'string', module_hash: 'string?', version: 'number', controllers: 'strings', heap_bytes: 'number',
  stable_bytes: 'number', memory_bytes: 'number', cycles: 'string', cycles_consumed: 'string',
  instructions_executed: 'number',
};

export async function askCanister(replica: string, id: string): Promise<Canister> {
  return shaped<Canister>(await ask(replica, `canisters/${encodeURIComponent(id)}`), CANISTER);
}

export async function askCanisters(replica: string, after: string, limit: number): Promise<CanisterPage> {
  const from = after && `&after=${encodeURIComponent(after)}`;
  const page = shaped<CanisterPage>(await ask(replica, `canisters?limit=${limit}${from}`), {
    height: 'number', total: 'number', next: 'string?',
  });
  return { ...page, canisters: allShaped<Canister>(page.canisters, CANISTER) };
}

async function ask(replica: string, path: string): Promise<unknown> {
  const response = await fetch(`${replica}/_/lockstep/${path}`, {
    signal: AbortSignal.timeout(PATIENCE_MS),
    cache: 'no-store',
  });
  if (!response.ok) throw new Error(`status ${response.status}: ${(await response.text()).trim()}`);
  return response.json();
}
