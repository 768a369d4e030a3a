// Calls whose answers are verified here, in the browser, against the subnet's root key.
import {
  AgentError, AnonymousIdentity, Certificate, HttpAgent, HttpErrorCode, lookupResultToBuffer, RejectError,
  IngressExpiryInvalidErrorCode, TimeoutWaitingForResponseErrorCode, TransportError, type ExpirableStore, type Identity,
} from '@icp-sdk/core/agent';
import { Ed25519KeyIdentity } from '@icp-sdk/core/identity';
import { Principal } from '@icp-sdk/core/principal';

// What became of a request.
export type Outcome =
  // The reply, and what vouches for it.
  | { kind: 'replied'; reply: Uint8Array; evidence: Evidence }
  // The canister or the subnet said no; `evidence` is missing if only this replica says so.
  | { kind: 'rejected'; text: string; evidence: Evidence | undefined }
  // What came does not verify: nothing of it is shown.
  | { kind: 'refused'; text: string }
  // Nothing came.
  | { kind: 'failed'; text: string };

export type Evidence =
  | { kind: 'certificate'; time: Date | undefined; bytes: number }
  | { kind: 'node'; nodes: string[]; time: Date };

// In memory: an address may be another network's tomorrow, with other nodes.
function nodeKeyStore<V>(): ExpirableStore<V> {
  const kept = new Map<string, V>();
  return {
    expirationTime: 60_000,
    get: async key => kept.get(key),
    set: async (key, value) => void kept.set(key, value),
    delete: async key => void kept.delete(key),
  };
}

export class Client {
  private readonly agent: HttpAgent;

  // `rootKey` in hexadecimal: what every answer is held against.
  constructor(host: string, rootKey: string, identity: Identity) {
    this.agent = HttpAgent.createSync({
      host,
      identity,
      rootKey: Uint8Array.from(rootKey.match(/../g) ?? [], byte => Number.parseInt(byte, 16)),
      verifyQuerySignatures: true,
      retryTimes: 1,
      subnetNodeKeyExpirableStore: nodeKeyStore(),
    });
  }

  // The canister's interface as its certified metadata gives it; nothing if it gives none, which is certified, too.
  async candid(canister: Principal): Promise<Outcome | undefined> {
    const encode = (text: string) => new TextEncoder().encode(text);
    const path = [encode('canister'), canister.toUint8Array(), encode('metadata'), encode('candid:service')];
    try {
      const read = await this.agent.readState({ canisterId: canister }, { paths: [path] });
      const found = lookupResultToBuffer(read.verifiedCertificate.lookup_path(path));
      if (!found) return undefined;
      return { kind: 'replied', reply: found, evidence: certificateEvidence(read.verifiedCertificate, read.certificate) };
    } catch (error) {
      return trouble(error);
    }
  }

  async update(canister: Principal, methodName: string, arg: Uint8Array): Promise<Outcome> {
    try {
      const answer = await this.agent.update(canister, {
        methodName,
        arg,
        effectiveTarget: { canisterId: canister },
      });
      const evidence = certificateEvidence(answer.certificate, answer.rawCertificate);
      return { kind: 'replied', reply: answer.reply, evidence };
    } catch (error) {
      return trouble(error);
    }
  }

  async query(canister: Principal, methodName: string, arg: Uint8Array): Promise<Outcome> {
    try {
      const answer = await this.agent.query(canister, {
        methodName,
        arg,
        effectiveTarget: { canisterId: canister },
      });
      const signatures = answer.signatures ?? [];
      const [first] = signatures;
      // The library has verified those that are there.
      if (!first) return { kind: 'refused', text: 'no node has signed the answer' };
      const evidence: Evidence = {
        kind: 'node',
        nodes: signatures.map(({ identity }) => Principal.fromUint8Array(identity).toText()),
        time: new Date(Number(BigInt(first.timestamp) / 1_000_000n)),
      };
      if (answer.status === 'replied') return { kind: 'replied', reply: answer.reply.arg, evidence };
      return { kind: 'rejected', text: `${answer.reject_message} (${answer.error_code})`, evidence };
    } catch (error) {
      return trouble(error);
    }
  }
}

function certificateEvidence(certificate: Certificate, raw: Uint8Array): Evidence {
  return { kind: 'certificate', time: timeOf(certificate), bytes: raw.length };
}

function timeOf(certificate: Certificate): Date | undefined {
  const bytes = lookupResultToBuffer(certificate.lookup_path(['time']));
  if (!bytes) return undefined;
  // LEB128, nanoseconds.
  const nanoseconds = bytes.reduceRight((sum, byte) => (sum << 7n) | BigInt(byte & 0x7f), 0n);
  return new Date(Number(nanoseconds / 1_000_000n));
}

function trouble(error: unknown): Outcome {
  if (!(error instanceof AgentError)) return { kind: 'refused', text: String(error) };
  const text = error.message.replace(/\s+/g, ' ').trim();
  if (error instanceof RejectError) {
    const evidence: Evidence | undefined = error.isCertified
      ? { kind: 'certificate', time: undefined, bytes: 0 }
      : undefined;
    return { kind: 'rejected', text, evidence };
  }
  // Whatever is no failure of the connection is an answer that did not hold up.
  const unreachable =
    error instanceof TransportError ||
    error.hasCode(HttpErrorCode) ||
    error.hasCode(IngressExpiryInvalidErrorCode) ||
    error.hasCode(TimeoutWaitingForResponseErrorCode);
  return { kind: unreachable ? 'failed' : 'refused', text };
}

export const anonymous = (): Identity => new AnonymousIdentity();

const KEY = 'lockstep-console-key';

// The key that this browser keeps for this address; `undefined`: none has been made.
export function keptIdentity(): Ed25519KeyIdentity | undefined {
  try {
    const kept = localStorage.getItem(KEY);
    return kept ? Ed25519KeyIdentity.fromJSON(kept) : undefined;
  } catch {
    return undefined;
  }
}

// A new key. It replaces the one before.
export function makeIdentity(): Ed25519KeyIdentity {
  const seed = crypto.getRandomValues(new Uint8Array(32));
  const identity = Ed25519KeyIdentity.generate(seed);
  try {
    localStorage.setItem(KEY, JSON.stringify(identity.toJSON()));
  } catch {
    // Where nothing may be kept the key lasts as long as the page.
  }
  return identity;
}
