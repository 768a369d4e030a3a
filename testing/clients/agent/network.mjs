// What the checks share: agents that verify, and canisters made with them.
import { Actor, HttpAgent } from "@icp-sdk/core/agent";
import { IDL } from "@icp-sdk/core/candid";
import { Principal } from "@icp-sdk/core/principal";

const host = process.argv[2];

/** An agent that verifies certificates and the nodes' signatures under the key that this network publishes. */
export const connect = (identity) =>
  HttpAgent.create({ host, identity, shouldFetchRootKey: true, verifyQuerySignatures: true });

/** The management canister's interface, as far as the checks use it. */
const management = ({ IDL }) => {
  const target = IDL.Record({ canister_id: IDL.Principal });
  const mode = IDL.Variant({ install: IDL.Null, upgrade: IDL.Opt(IDL.Record({})) });
  return IDL.Service({
    provisional_create_canister_with_cycles: IDL.Func([IDL.Record({ amount: IDL.Opt(IDL.Nat) })], [target], []),
    install_code: IDL.Func(
      [IDL.Record({ mode, canister_id: IDL.Principal, wasm_module: IDL.Vec(IDL.Nat8), arg: IDL.Vec(IDL.Nat8) })],
      [],
      [],
    ),
  });
};

/** The counter's interface. */
export const counterInterface = ({ IDL }) =>
  IDL.Service({
    increase: IDL.Func([IDL.Nat], [IDL.Nat], []),
    get: IDL.Func([], [IDL.Nat], ["query"]),
    whoami: IDL.Func([], [IDL.Principal], ["query"]),
    whoami_certified: IDL.Func([], [IDL.Principal], []),
  });

/** A counter that starts at `first`; the agent's identity controls it. */
export const deployCounter = async (agent, wasm, first) => {
  const anywhere = Principal.fromText("rwlgt-iiaaa-aaaaa-aaaaa-cai");
  const call = (effectiveCanisterId) =>
    Actor.createActor(management, { agent, canisterId: "aaaaa-aa", effectiveCanisterId });
  const created = await call(anywhere).provisional_create_canister_with_cycles({ amount: [] });
  const canisterId = created.canister_id;
  await call(canisterId).install_code({
    mode: { install: null },
    canister_id: canisterId,
    wasm_module: wasm,
    arg: IDL.encode([IDL.Nat], [first]),
  });
  return canisterId;
};

export const counter = (agent, canisterId) => Actor.createActor(counterInterface, { agent, canisterId });
