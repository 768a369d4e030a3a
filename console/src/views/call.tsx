// A form for a canister's methods, and what became of the last call.
import { Principal } from '@icp-sdk/core/principal';
import { useMemo, useState } from 'preact/hooks';
import { Encoding } from '../candid/encoding.ts';
import { hex, showAll } from '../candid/show.ts';
import { signatureText, type Argument, type Callable, type Interface } from '../candid/syntax.ts';
import type { Client, Outcome } from '../data/agent.ts';
import { empty, type Draft } from '../form/draft.ts';
import { Entry, entryId } from '../form/entry.tsx';
import { EntryError, value } from '../form/value.ts';
import { Verdict } from './verdict.tsx';

interface Properties {
  client: Client;
  canister: Principal;
  described: Interface;
  callables: Callable[];
  rootKey: string;
}

// What was asked and what came of it.
interface Done {
  how: 'query' | 'update';
  milliseconds: number;
  outcome: Outcome;
  shown: string;
}

// Belongs to one interface: another needs another `key`.
export function Call(properties: Properties) {
  const { callables } = properties;
  const [name, setName] = useState(callables[0]?.name ?? '');
  const callable = callables.find(callable => callable.name === name);
  if (!callable) return <p class="quiet">The interface has no methods.</p>;
  return (
    <div class="call">
      <label class="entry">
        <span class="name">Method</span>
        <select name="method" value={name} onChange={event => setName(event.currentTarget.value)}>
          <Methods label="Queries" callables={callables} want={mode => mode === 'query' || mode === 'composite_query'} />
          <Methods label="Updates" callables={callables} want={mode => mode === 'update' || mode === 'oneway'} />
        </select>
      </label>
      <MethodForm key={name} {...properties} callable={callable} />
    </div>
  );
}

function MethodForm({ client, canister, described, callable, rootKey }: Properties & { callable: Callable }) {
  const { signature } = callable;
  const [drafts, setDrafts] = useState<(Draft | undefined)[]>(() =>
    signature.args.map(({ type }) => empty(type, described.types)),
  );
  const [error, setError] = useState<EntryError>();
  const [busy, setBusy] = useState(false);
  const [done, setDone] = useState<Done>();
  const encoding = useMemo(() => new Encoding(described), [described]);
  const isQuery = signature.mode === 'query' || signature.mode === 'composite_query';

  const run = async (how: 'query' | 'update') => {
    let bytes: Uint8Array;
    try {
      const values = signature.args.map(({ type }, index) =>
        value(type, drafts[index] ?? { kind: 'nothing' }, described.types, argumentName(signature.args, index)),
      );
      bytes = encoding.encode(signature.args, values);
      setError(undefined);
    } catch (wrong) {
      const error = wrong instanceof EntryError ? wrong : new EntryError('argument', String(wrong));
      setError(error);
      document.getElementById(entryId(error.path))?.focus();
      return;
    }
    setBusy(true);
    const started = performance.now();
    const outcome = await client[how](canister, callable.name, bytes);
    const shown = outcome.kind === 'replied' ? decoded(encoding, signature.results, outcome.reply, described) : '';
    setDone({ how, milliseconds: performance.now() - started, outcome, shown });
    setBusy(false);
  };

  return (
    <form onSubmit={event => (event.preventDefault(), void run(isQuery ? 'query' : 'update'))}>
      <p class="signature"><code>{callable.name} : {signatureText(signature)}</code></p>
      {callable.docs && <p class="quiet">{callable.docs}</p>}
      {signature.args.map(({ type }, index) => {
        const draft = drafts[index];
        const path = argumentName(signature.args, index);
        return draft ? (
          <Entry key={index} type={type} draft={draft} types={described.types} name={path} path={path} error={error}
            change={changed => setDrafts(drafts => drafts.map((old, at) => (at === index ? changed : old)))} />
        ) : (
          <p class="wrong" key={index}>{path}: no value of its type is finite</p>
        );
      })}
      <p class="buttons">
        {isQuery && <button type="submit" class="primary" disabled={busy}>Query</button>}
        {signature.mode !== 'composite_query' && (
          <button type={isQuery ? 'button' : 'submit'} class={isQuery ? '' : 'primary'} disabled={busy}
            {...(isQuery ? { onClick: () => void run('update') } : {})}>
            {isQuery ? 'Call as an update, certified' : 'Call'}
          </button>
        )}
      </p>
      {error && <p class="wrong" role="alert">{error.message}</p>}
      <div class="result" aria-live="polite" aria-busy={busy} data-result={busy ? 'busy' : (done?.outcome.kind ?? 'none')}>
        {busy && <p class="quiet">waiting for the answer</p>}
        {!busy && done && (
          <>
            <p class="quiet">{done.how}, {done.milliseconds.toFixed(0)} ms</p>
            <Verdict outcome={done.outcome} rootKey={rootKey} />
            {done.outcome.kind === 'replied' && <pre tabIndex={0} aria-label="Reply">{done.shown}</pre>}
          </>
        )}
      </div>
    </form>
  );
}

function Methods(properties: {
  label: string;
  callables: Callable[];
  want: (mode: Callable['signature']['mode']) => boolean;
}) {
  const wanted = properties.callables.filter(({ signature }) => properties.want(signature.mode));
  if (wanted.length === 0) return null;
  return (
    <optgroup label={properties.label}>
      {wanted.map(({ name }) => (
        <option key={name} value={name}>{name}</option>
      ))}
    </optgroup>
  );
}

function argumentName(args: Argument[], index: number): string {
  return args[index]?.name ?? (args.length === 1 ? 'argument' : `argument ${index}`);
}

// The values of a reply. It is verified already; bytes that are of another type than the interface says are shown as
// they are.
function decoded(encoding: Encoding, results: Argument[], reply: Uint8Array, described: Interface): string {
  try {
    return showAll(results, encoding.decode(results, reply), described.types);
  } catch (error) {
    return `not of the type that the interface says (${error instanceof Error ? error.message : String(error)}):\n0x${hex(reply)}`;
  }
}
