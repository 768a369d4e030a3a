// All canisters, page by page.
import { useEffect, useState } from 'preact/hooks';
import { askCanisters, type CanisterPage } from '../data/answers.ts';
import { bytes, count, cycles, short } from './format.ts';

const PER_PAGE = 25;

export function Canisters({ origin, round }: { origin: string; round: number }) {
  // The ids behind which the pages so far begin.
  const [starts, setStarts] = useState<string[]>(['']);
  const [page, setPage] = useState<CanisterPage>();
  const [error, setError] = useState<string>();
  const start = starts.at(-1)!;
  useEffect(() => {
    let isCurrent = true;
    askCanisters(origin, start, PER_PAGE).then(
      found => isCurrent && (setPage(found), setError(undefined)),
      failed => isCurrent && setError(String(failed)),
    );
    return () => void (isCurrent = false);
  }, [start, round]);
  return (
    <>
      <h2>Canisters</h2>
      {error && <p class="alarm mild" role="alert">They cannot be listed: {error}</p>}
      <OpenById />
      {page?.total === 0 && <p class="quiet">There is none yet.</p>}
      {page && page.total > 0 && (
        <>
          <div class="scroll" tabIndex={0} role="region" aria-label="Canisters">
            <table>
              <caption class="quiet">
                <span>{page.total} in all, after height {page.height}</span>
              </caption>
              <thead>
                <tr>
                  <th scope="col">Canister</th>
                  <th scope="col">Status</th>
                  <th scope="col">Module</th>
                  <th scope="col" class="number">Heap</th>
                  <th scope="col" class="number">Stable</th>
                  <th scope="col" class="number">Cycles</th>
                  <th scope="col" class="number">Instructions</th>
                </tr>
              </thead>
              <tbody>
                {page.canisters.map(canister => (
                  <tr key={canister.id}>
                    <th scope="row"><a href={`#/canister/${canister.id}`}><code>{canister.id}</code></a></th>
                    <td>{canister.status}</td>
                    <td>{canister.module_hash ? <code title={canister.module_hash}>{short(canister.module_hash)}</code> : 'none'}</td>
                    <td class="number">{bytes(canister.heap_bytes)}</td>
                    <td class="number">{bytes(canister.stable_bytes)}</td>
                    <td class="number">{cycles(canister.cycles)}</td>
                    <td class="number">{count(canister.instructions_executed)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
          <p class="buttons">
            <button type="button" disabled={starts.length === 1} onClick={() => setStarts(starts.slice(0, -1))}>
              Back
            </button>
            <button type="button" disabled={!page.next} onClick={() => page.next && setStarts([...starts, page.next])}>
              Next
            </button>
          </p>
        </>
      )}
    </>
  );
}

function OpenById() {
  const [id, setId] = useState('');
  const open = (event: Event) => {
    event.preventDefault();
    const text = id.trim().toLowerCase();
    if (text) location.hash = `#/canister/${text.replace(/[^a-z0-9-]/g, '')}`;
  };
  return (
    <form class="inline" onSubmit={open}>
      <label>
        Open by id <input value={id} onInput={event => setId(event.currentTarget.value)} spellcheck={false} />
      </label>
      <button type="submit">Open</button>
    </form>
  );
}
