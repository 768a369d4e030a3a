// Who signs calls, and which root key answers are held against.
import type { Identity } from '@icp-sdk/core/agent';
import { useState } from 'preact/hooks';
import { anonymous, keptIdentity, makeIdentity } from '../data/agent.ts';
import type { Seen } from '../data/watch.ts';

const PINNED = 'lockstep-console-root-key';
// DER of a key, in hexadecimal.
const ROOT_KEY = /^[0-9a-f]{266}$/;

function pinned(): string | undefined {
  try {
    return localStorage.getItem(PINNED) ?? undefined;
  } catch {
    return undefined;
  }
}

// The root key in force and where it is from; no key if there is none that can be relied on.
export interface RootKey {
  hex: string | undefined;
  source: string;
  isPinned: boolean;
}

export function useRootKey(replicas: Seen[]): [RootKey, (key: string | undefined) => void] {
  const [own, setOwn] = useState(pinned);
  const pin = (key: string | undefined) => {
    setOwn(key);
    try {
      if (key) localStorage.setItem(PINNED, key);
      else localStorage.removeItem(PINNED);
    } catch {
      // Where nothing may be kept it lasts as long as the page.
    }
  };
  if (own) return [{ hex: own, source: 'as you have set it', isPinned: true }, pin];
  const given = replicas.flatMap(({ network }) => (network ? [network.root_key] : []));
  const [first] = given;
  if (!first) return [{ hex: undefined, source: 'no replica has given one yet', isPinned: false }, pin];
  if (given.some(key => key !== first)) {
    return [{ hex: undefined, source: 'replicas give different ones: set the right one', isPinned: false }, pin];
  }
  const source = `as ${given.length} of ${replicas.length} replicas give it`;
  return [{ hex: first, source, isPinned: false }, pin];
}

export function RootKeyEntry({ rootKey, pin }: { rootKey: RootKey; pin: (key: string | undefined) => void }) {
  const [text, setText] = useState('');
  const [wrong, setWrong] = useState(false);
  const set = (event: Event) => {
    event.preventDefault();
    const key = text.trim().toLowerCase();
    setWrong(!ROOT_KEY.test(key));
    if (ROOT_KEY.test(key)) pin(key);
  };
  return (
    <details class="trust">
      <summary>
        Root key {rootKey.hex ? <code title={rootKey.hex}>…{rootKey.hex.slice(-16)}</code> : 'missing'}, {rootKey.source}
      </summary>
      <p class="quiet">
        Answers are held against this key. If you know the subnet's key from elsewhere, set it here: then no replica can
        pass off another subnet as this one. This page itself comes from a replica, so open it from one that you trust.
      </p>
      {rootKey.hex && <p><code class="whole">{rootKey.hex}</code></p>}
      <form class="inline" onSubmit={set}>
        <label>
          Key in hexadecimal
          <input name="root-key" value={text} aria-invalid={wrong} spellcheck={false}
            onInput={event => setText(event.currentTarget.value)} />
        </label>
        <button type="submit">Set</button>
        {rootKey.isPinned && <button type="button" onClick={() => pin(undefined)}>Forget</button>}
      </form>
      {wrong && <p class="wrong" role="alert">A root key has 266 hexadecimal digits.</p>}
    </details>
  );
}

export function IdentityEntry({ identity, use }: { identity: Identity; use: (identity: Identity) => void }) {
  const text = identity.getPrincipal().toText();
  const isAnonymous = identity.getPrincipal().isAnonymous();
  return (
    <fieldset class="trust">
      <legend>Calls are signed</legend>
      <label class="check">
        <input type="radio" name="identity" value="anonymous" checked={isAnonymous} onChange={() => use(anonymous())} />
        by nobody
      </label>
      <label class="check">
        <input type="radio" name="identity" value="key" checked={!isAnonymous}
          onChange={() => use(keptIdentity() ?? makeIdentity())} />
        with this browser's key (Ed25519)
      </label>
      {!isAnonymous && (
        <button type="button" onClick={() => confirm('Replace the key? What it controls is lost.') && use(makeIdentity())}>
          New key
        </button>
      )}
      <p>
        as <code data-principal>{text}</code>
      </p>
    </fieldset>
  );
}
