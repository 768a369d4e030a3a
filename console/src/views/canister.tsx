// One canister: what it uses, and calls of its methods.
import { Principal } from '@icp-sdk/core/principal';
import { useEffect, useMemo, useState } from 'preact/hooks';
import { parse } from '../candid/parser.ts';
import { methods, type Callable, type Interface } from '../candid/syntax.ts';
import { anonymous, Client, type Outcome } from '../data/agent.ts';
import { askCanister, type Canister } from '../data/answers.ts';
import { remember } from '../data/samples.ts';
import type { Seen } from '../data/watch.ts';
import { Call } from './call.tsx';
import { Chart } from './chart.tsx';
import { bytes, count, cycles } from './format.ts';
import { IdentityEntry, RootKeyEntry, useRootKey } from './trust.tsx';
import { Verdict } from './verdict.tsx';

interface Properties {
  id: string;
  origin: string;
  replicas: Seen[];
  round: number;
}

export function CanisterView(properties: Properties) {
  try {
    return <Found {...properties} canister={Principal.fromText(properties.id)} />;
  } catch {
    return <p class="alarm mild" role="alert">This is not the id of a canister: {properties.id}</p>;
  }
}

function Found({ id, origin, replicas, round, canister }: Properties & { canister: Principal }) {
  const [found, setFound] = useState<Canister>();
  const [error, setError] = useState<string>();
  useEffect(() => {
    let isCurrent = true;
    askCanister(origin, id).then(
      answer => {
        if (!isCurrent) return;
        remember(answer);
        setFound(answer);
        setError(undefined);
      },
      failed => isCurrent && setError(failed instanceof Error ? failed.message : String(failed)),
    );
    return () => void (isCurrent = false);
  }, [id, round]);
  return (
    <>
      <h2>Canister <code class="whole">{id}</code></h2>
      {error && <p class="alarm mild" role="alert">{error}</p>}
      {found && <Usage canister={found} />}
      <h2>Methods</h2>
      <Methods origin={origin} replicas={replicas} canister={canister} moduleHash={found?.module_hash ?? undefined} />
    </>
  );
}

function Usage({ canister }: { canister: Canister }) {
  const samples = remember(canister);
  const span = `${samples.length} samples ago`;
  const memory = samples.map(({ heap, stable }) => heap + stable);
  return (
    <>
      <dl class="facts">
        <dt>Status</dt>
        <dd>{canister.status}</dd>
        <dt>Module</dt>
        <dd><code class="whole">{canister.module_hash ?? 'none'}</code></dd>
        <dt>Controllers</dt>
        <dd>{canister.controllers.map(controller => <code class="whole" key={controller}>{controller} </code>)}</dd>
        <dt>Version</dt>
        <dd>{canister.version}</dd>
        <dt>Memory</dt>
        <dd>
          heap {bytes(canister.heap_bytes)}, stable {bytes(canister.stable_bytes)}, in all {bytes(canister.memory_bytes)}
        </dd>
        <dt>Cycles</dt>
        <dd title={canister.cycles}>
          {cycles(canister.cycles)}, {cycles(canister.cycles_consumed)} consumed
        </dd>
      </dl>
      <div class="charts">
        <Chart title="Heap and stable memory" kind="line" values={memory} format={bytes} from={span} to="now" />
        <Chart title="Cycles" kind="line" values={samples.map(sample => sample.cycles)} format={count} from={span} to="now" />
        <Chart title="Instructions" kind="bars" values={samples.map(sample => sample.instructions)} format={count}
          from={span} to="now" />
      </div>
    </>
  );
}

// An interface, and how it was come by.
interface Known {
  described: Interface;
  callables: Callable[];
}

function understand(text: string): Known | string {
  try {
    const described = parse(text);
    return { described, callables: methods(described) };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function Methods({ origin, replicas, canister, moduleHash }: {
  origin: string;
  replicas: Seen[];
  canister: Principal;
  moduleHash: string | undefined;
}) {
  const [rootKey, pin] = useRootKey(replicas);
  const [identity, setIdentity] = useState(anonymous);
  const [given, setGiven] = useState<Outcome | 'none'>();
  const [own, setOwn] = useState<string>();
  const client = useMemo(() => rootKey.hex && new Client(origin, rootKey.hex, identity), [rootKey.hex, identity]);
  // What one root key vouches for says nothing under another.
  const reader = useMemo(() => rootKey.hex && new Client(origin, rootKey.hex, anonymous()), [rootKey.hex]);
  useEffect(() => setGiven(undefined), [reader]);
  // Asked again when the code changes.
  useEffect(() => {
    let isCurrent = true;
    if (reader) void reader.candid(canister).then(outcome => isCurrent && setGiven(outcome ?? 'none'));
    return () => void (isCurrent = false);
  }, [reader, canister.toText(), moduleHash]);
  const text = own ?? (given !== 'none' && given?.kind === 'replied' ? new TextDecoder().decode(given.reply) : undefined);
  const known = useMemo(() => (text === undefined ? undefined : understand(text)), [text]);
  return (
    <>
      <RootKeyEntry rootKey={rootKey} pin={pin} />
      <IdentityEntry identity={identity} use={setIdentity} />
      <section aria-live="polite" data-interface={given === 'none' ? 'none' : (given?.kind ?? 'waiting')}>
        <h3>Interface</h3>
        {given === undefined && <p class="quiet">reading it</p>}
        {given === 'none' && <p class="quiet">The canister gives no interface (<code>candid:service</code>).</p>}
        {given !== undefined && given !== 'none' && rootKey.hex && <Verdict outcome={given} rootKey={rootKey.hex} />}
        {typeof known === 'string' && <p class="wrong" role="alert">The interface cannot be read: {known}</p>}
        {text !== undefined && (
          <details>
            <summary>Candid</summary>
            <pre tabIndex={0} aria-label="Candid">{text}</pre>
          </details>
        )}
        <OwnInterface use={setOwn} isUsed={own !== undefined} />
      </section>
      {client && rootKey.hex && known && typeof known !== 'string' && (
        <Call key={text} client={client} canister={canister} described={known.described} callables={known.callables}
          rootKey={rootKey.hex} />
      )}
    </>
  );
}

function OwnInterface({ use, isUsed }: { use: (text: string | undefined) => void; isUsed: boolean }) {
  const [text, setText] = useState('');
  return (
    <details>
      <summary>{isUsed ? 'An interface of your own is used' : 'Use an interface of your own'}</summary>
      <label class="entry">
        <span class="name">Candid</span>
        <textarea rows={4} value={text} spellcheck={false} placeholder={'service : { get : () -> (nat) query }'}
          onInput={event => setText(event.currentTarget.value)} />
      </label>
      <p class="buttons">
        <button type="button" disabled={!text.trim()} onClick={() => use(text)}>Use it</button>
        {isUsed && <button type="button" onClick={() => use(undefined)}>Use the canister's</button>}
      </p>
    </details>
  );
}
