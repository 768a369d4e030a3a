// What the test in the browser needs of a subnet: a canister to call.
import { HttpAgent } from '@icp-sdk/core/agent';
import { IDL } from '@icp-sdk/core/candid';
import { Principal } from '@icp-sdk/core/principal';
import { readFileSync } from 'node:fs';

// What the test is started with, in JSON.
export interface Setting {
  // Addresses of the replicas.
  replicas: string[];
  // The ledger canister's module.
  ledger: string;
  // The browser.
  chromium: string;
  // Where to write a picture of the console; nothing: none is made.
  screenshot: string | null;
}

export const SUPPLY = 1_000_000n;

const Account = IDL.Record({ owner: IDL.Principal, subaccount: IDL.Opt(IDL.Vec(IDL.Nat8)) });
const Config = IDL.Record({
  name: IDL.Text,
  symbol: IDL.Text,
  decimals: IDL.Nat8,
  fee: IDL.Nat,
  minting_account: Account,
  initial_balances: IDL.Vec(IDL.Record({ _0_: Account, _1_: IDL.Nat })),
  recent_max: IDL.Opt(IDL.Nat32),
});

// Installs a ledger that anybody may spend from, and returns its id.
export async function installLedger(replica: string, module: string): Promise<string> {
  const agent = await HttpAgent.create({ host: replica, shouldFetchRootKey: true });
  const management = Principal.managementCanister();
  const update = async (methodName: string, types: IDL.Type[], values: unknown[], canisterId: Principal) =>
    (await agent.update(management, { methodName, arg: IDL.encode(types, values), effectiveTarget: { canisterId } })).reply;

  const create = IDL.Record({ amount: IDL.Opt(IDL.Nat) });
  const created = IDL.Record({ canister_id: IDL.Principal });
  const anyCanister = Principal.fromUint8Array(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 1, 1));
  const reply = await update('provisional_create_canister_with_cycles', [create], [{ amount: [] }], anyCanister);
  const [{ canister_id: id }] = IDL.decode([created], reply) as unknown as [{ canister_id: Principal }];

  const account = { owner: Principal.anonymous(), subaccount: [] };
  const config = {
    name: 'Console', symbol: 'CON', decimals: 0, fee: 10n, recent_max: [],
    minting_account: { owner: management, subaccount: [] },
    initial_balances: [{ _0_: account, _1_: SUPPLY }],
  };
  const install = IDL.Record({
    mode: IDL.Variant({ install: IDL.Null }),
    canister_id: IDL.Principal,
    wasm_module: IDL.Vec(IDL.Nat8),
    arg: IDL.Vec(IDL.Nat8),
  });
  const wasm = new Uint8Array(readFileSync(module));
  const arg = IDL.encode([Config], [config]);
  await update('install_code', [install], [{ mode: { install: null }, canister_id: id, wasm_module: wasm, arg }], id);
  return id.toText();
}
