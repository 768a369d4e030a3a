// Checks a network with the JavaScript agent, everything verified: `node check.mjs URL COUNTER_WASM`. Prints a line per
// check that holds, and stops at the first that does not.
import { Actor, CanisterStatus, Certificate, SubnetStatus, fetchCandid } from "@icp-sdk/core/agent";
import { IDL } from "@icp-sdk/core/candid";
import { DelegationChain, DelegationIdentity, ECDSAKeyIdentity, Ed25519KeyIdentity } from "@icp-sdk/core/identity";
import { Secp256k1KeyIdentity } from "@icp-sdk/core/identity/secp256k1";
import { Principal } from "@icp-sdk/core/principal";
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect, counter, deployCounter } from "./network.mjs";
import { passkey } from "./passkey.mjs";

const wasm = new Uint8Array(readFileSync(process.argv[3]));
const check = async (name, holds) => {
  try {
    await holds();
  } catch (error) {
    console.error(`${name}: ${error.stack ?? error}`);
    process.exit(1);
  }
  console.log(`ok ${name}`);
};
const inAnHour = () => new Date(Date.now() + 60 * 60 * 1000);

const owner = Ed25519KeyIdentity.generate();
const agent = await connect(owner);
const canisterId = await deployCounter(agent, wasm, 40n);
const actor = counter(agent, canisterId);

await check("query verified by the nodes' keys", async () => {
  assert.equal(await actor.get(), 40n);
});

await check("query whose signature is forged", async () => {
  const liar = await connect(owner);
  // Keys of nodes that do not exist: nothing that comes can be verified.
  liar.fetchSubnetKeys = async () => new Map();
  await assert.rejects(counter(liar, canisterId).get());
});

await check("update verified by the certificate", async () => {
  assert.equal(await actor.increase(2n), 42n);
  const arg = IDL.encode([IDL.Nat], [0n]);
  const { certificate, reply } = await agent.update(canisterId, { methodName: "increase", arg });
  assert.deepEqual(IDL.decode([IDL.Nat], reply), [42n]);
  assert.ok(certificate instanceof Certificate);
});

await check("certificate of another network", async () => {
  const stranger = await connect(owner);
  stranger.rootKey = new Uint8Array(stranger.rootKey);
  stranger.rootKey[100] ^= 1;
  await assert.rejects(counter(stranger, canisterId).increase(1n));
  // The call itself was in order: only what came back was not believed.
  assert.equal(await actor.get(), 43n);
});

await check("method that does not exist", async () => {
  const other = Actor.createActor(({ IDL }) => IDL.Service({ nothing: IDL.Func([], [], []) }), { agent, canisterId });
  await assert.rejects(other.nothing(), /IC0536|no update method|nothing/);
});

await check("argument that is none", async () => {
  const arg = new Uint8Array([1, 2, 3]);
  await assert.rejects(agent.update(canisterId, { methodName: "increase", arg }), /IC0503|trap/i);
});

await check("state of a canister", async () => {
  const paths = ["time", "controllers", "module_hash", "candid", "subnet"];
  const status = await CanisterStatus.request({ agent, canisterId, paths });
  assert.ok(Math.abs(status.get("time").getTime() - Date.now()) < 5 * 60 * 1000);
  assert.deepEqual(status.get("controllers").map(String), [owner.getPrincipal().toText()]);
  assert.equal(status.get("module_hash"), createHash("sha256").update(wasm).digest("hex"));
  assert.match(status.get("candid"), /whoami_certified/);
  const { subnetId, nodeKeys } = status.get("subnet");
  assert.equal(subnetId, Principal.selfAuthenticating(agent.rootKey).toText());
  assert.ok(nodeKeys.size >= 1);
  assert.match(await fetchCandid(canisterId.toText(), agent), /whoami_certified/);
});

await check("state of the subnet", async () => {
  const subnetId = await agent.getSubnetIdFromCanister(canisterId);
  const metrics = new SubnetStatus.CustomPath("metrics", "metrics", "raw");
  const paths = ["time", "publicKey", "nodeKeys", "canisterRanges", metrics];
  const status = await SubnetStatus.request({ agent, subnetId, paths });
  assert.deepEqual(status.get("publicKey"), agent.rootKey);
  assert.ok(status.get("nodeKeys").size >= 1);
  const [[first, last]] = status.get("canisterRanges");
  assert.ok(first.ltEq(canisterId) && last.gtEq(canisterId));
  // Its map of cycles has numbers as keys, as the interface says, which this library's decoder does not take.
  assert.match(Buffer.from(status.get("metrics")).toString("latin1"), /num_canisters.*update_transactions_total/s);
});

await check("query at the subnet's address", async () => {
  const subnetId = await agent.getSubnetIdFromCanister(canisterId);
  const range = IDL.Record({ start: IDL.Principal, end: IDL.Principal });
  const arg = IDL.encode([], []);
  const list = { methodName: "list_canisters", arg, effectiveTarget: { subnetId } };
  const { reply } = await agent.query("aaaaa-aa", list);
  const [{ canisters }] = IDL.decode([IDL.Record({ canisters: IDL.Vec(range) })], reply.arg);
  assert.ok(canisters.some(({ start, end }) => start.ltEq(canisterId) && end.gtEq(canisterId)));
  const other = { ...list, effectiveTarget: { subnetId: owner.getPrincipal() } };
  await assert.rejects(agent.query("aaaaa-aa", other));
});

await check("path that nobody may read", async () => {
  const paths = [[Buffer.from("request_status"), new Uint8Array(31)]];
  await assert.rejects(agent.readState({ canisterId }, { paths }));
});

const identities = [
  ["Ed25519", () => Ed25519KeyIdentity.generate()],
  ["ECDSA on P-256", () => ECDSAKeyIdentity.generate()],
  ["ECDSA on secp256k1", () => Secp256k1KeyIdentity.generate()],
  ["passkey", () => passkey()],
];
for (const [name, generate] of identities) {
  await check(`key: ${name}`, async () => {
    const identity = await generate();
    const mine = counter(await connect(identity), canisterId);
    const principal = identity.getPrincipal().toText();
    assert.equal((await mine.whoami()).toText(), principal);
    assert.equal((await mine.whoami_certified()).toText(), principal);
  });
}

await check("key: none", async () => {
  const mine = counter(await connect(undefined), canisterId);
  assert.equal((await mine.whoami()).toText(), Principal.anonymous().toText());
  assert.equal((await mine.whoami_certified()).toText(), Principal.anonymous().toText());
});

/** A session for `root`, over `hops` keys, the last of which signs. */
const session = async (root, hops, options = {}) => {
  let [from, previous] = [root, undefined];
  for (const key of hops) {
    previous = await DelegationChain.create(from, key.getPublicKey(), inAnHour(), { previous, ...options });
    from = key;
  }
  return DelegationIdentity.fromDelegation(from, previous);
};

for (const [name, generate] of identities) {
  await check(`delegation from: ${name}`, async () => {
    const root = await generate();
    const hops = [Ed25519KeyIdentity.generate(), await ECDSAKeyIdentity.generate()];
    const identity = await session(root, hops, { targets: [canisterId] });
    const mine = counter(await connect(identity), canisterId);
    const principal = root.getPrincipal().toText();
    assert.equal((await mine.whoami()).toText(), principal);
    assert.equal((await mine.whoami_certified()).toText(), principal);
  });
}

await check("delegation for another canister", async () => {
  const options = { targets: [Principal.fromText("ryjl3-tyaaa-aaaaa-aaaba-cai")] };
  const identity = await session(owner, [Ed25519KeyIdentity.generate()], options);
  const mine = counter(await connect(identity), canisterId);
  await assert.rejects(mine.whoami());
  await assert.rejects(mine.whoami_certified());
});

await check("delegation for queries alone", async () => {
  const identity = await session(owner, [Ed25519KeyIdentity.generate()], { permissions: "queries" });
  const mine = counter(await connect(identity), canisterId);
  assert.equal((await mine.whoami()).toText(), owner.getPrincipal().toText());
  await assert.rejects(mine.whoami_certified());
});

await check("delegation that is over", async () => {
  const key = Ed25519KeyIdentity.generate();
  const chain = await DelegationChain.create(owner, key.getPublicKey(), new Date(Date.now() - 60 * 60 * 1000));
  const mine = counter(await connect(DelegationIdentity.fromDelegation(key, chain)), canisterId);
  await assert.rejects(mine.whoami());
});

await check("ledger's records, variants and options", async () => {
  const account = IDL.Record({ owner: IDL.Principal, subaccount: IDL.Opt(IDL.Vec(IDL.Nat8)) });
  const transfer = IDL.Record({
    from_subaccount: IDL.Opt(IDL.Vec(IDL.Nat8)),
    to: account,
    amount: IDL.Nat,
    fee: IDL.Opt(IDL.Nat),
    memo: IDL.Opt(IDL.Vec(IDL.Nat8)),
    created_at_time: IDL.Opt(IDL.Nat64),
  });
  const failure = IDL.Variant({ InsufficientFunds: IDL.Record({ balance: IDL.Nat }) });
  const service = ({ IDL }) =>
    IDL.Service({
      icrc1_balance_of: IDL.Func([account], [IDL.Nat], ["query"]),
      icrc1_transfer: IDL.Func([transfer], [IDL.Variant({ Ok: IDL.Nat, Err: failure })], []),
    });
  const ledger = async (identity) =>
    Actor.createActor(service, { agent: await connect(identity), canisterId: "um5iw-rqaaa-aaaaq-qaaba-cai" });
  const to = { owner: owner.getPrincipal(), subaccount: [new Uint8Array(32).fill(7)] };
  const amount = 2n ** 70n;
  const send = { from_subaccount: [], to, amount, fee: [], memo: [], created_at_time: [] };
  const refused = await (await ledger(owner)).icrc1_transfer(send);
  assert.deepEqual(refused, { Err: { InsufficientFunds: { balance: 0n } } });
  const everybody = await ledger(undefined);
  assert.ok("Ok" in (await everybody.icrc1_transfer(send)));
  assert.equal(await everybody.icrc1_balance_of(to), amount);
});
