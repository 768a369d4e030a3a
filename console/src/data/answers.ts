// What replicas answer at `/_/lockstep/`. The Rust types of the same names say what each field is.

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

// An answer of a replica. What a replica that is being attacked answers is shown, never trusted: it is not certified.
export async function ask<T>(replica: string, path: string): Promise<T> {
  const response = await fetch(`${replica}/_/lockstep/${path}`, {
    signal: AbortSignal.timeout(PATIENCE_MS),
    cache: 'no-store',
  });
  if (!response.ok) throw new Error(`status ${response.status}: ${(await response.text()).trim()}`);
  return (await response.json()) as T;
}
