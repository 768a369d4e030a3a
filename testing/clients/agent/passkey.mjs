// A passkey of the library's kind, whose authenticator is this process: ECDSA on P-256 in COSE.
import { WebAuthnIdentity } from "@icp-sdk/core/identity";
import { createHash, generateKeyPairSync, randomBytes, sign } from "node:crypto";

const base64url = (bytes) => Buffer.from(bytes).toString("base64url");

/** The key in COSE: kind 2, algorithm -7, curve 1, x, y. */
const cose = (publicKey) => {
  const { x, y } = publicKey.export({ format: "jwk" });
  return Buffer.concat([
    Buffer.from("a5010203262001215820", "hex"),
    Buffer.from(x, "base64url"),
    Buffer.from("225820", "hex"),
    Buffer.from(y, "base64url"),
  ]);
};

/** Answers what a browser would ask an authenticator. */
const authenticator = (privateKey) => ({
  async get({ publicKey: { challenge } }) {
    const clientDataJSON = Buffer.from(
      JSON.stringify({ type: "webauthn.get", challenge: base64url(challenge), origin: "https://example.org" }),
    );
    const authenticatorData = Buffer.concat([
      createHash("sha256").update("example.org").digest(),
      Buffer.from("0500000001", "hex"),
    ]);
    const signed = Buffer.concat([authenticatorData, createHash("sha256").update(clientDataJSON).digest()]);
    const signature = new Uint8Array(sign("sha256", signed, privateKey));
    const response = { authenticatorData: new Uint8Array(authenticatorData), clientDataJSON, signature };
    return { type: "public-key", authenticatorAttachment: "platform", response };
  },
});

/** A new passkey; the last one made is the one that signs. */
export const passkey = () => {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const navigator = { credentials: authenticator(privateKey) };
  Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
  return new WebAuthnIdentity(new Uint8Array(randomBytes(16)), new Uint8Array(cose(publicKey)), undefined);
};
