// The console: what is seen of the network, and the page that the address names.
import { useEffect, useState } from 'preact/hooks';
import { judge } from './data/judge.ts';
import type { Watch } from './data/watch.ts';
import { Alarms } from './views/alarms.tsx';
import { Blocks } from './views/blocks.tsx';
import { CanisterView } from './views/canister.tsx';
import { Canisters } from './views/canisters.tsx';
import { shortPrincipal } from './views/format.ts';
import { Overview } from './views/overview.tsx';

const PAGES = [
  ['#/', 'Replicas'],
  ['#/blocks', 'Blocks'],
  ['#/canisters', 'Canisters'],
] as const;

export function App({ watch, origin }: { watch: Watch; origin: string }) {
  const [round, setRound] = useState(watch.round);
  const [address, setAddress] = useState(location.hash || '#/');
  useEffect(() => watch.listen(() => setRound(watch.round)), [watch]);
  useEffect(() => {
    const follow = () => {
      setAddress(location.hash || '#/');
      // What is read next is the new page.
      document.getElementById('main')?.focus();
    };
    addEventListener('hashchange', follow);
    return () => removeEventListener('hashchange', follow);
  }, []);
  const replicas = watch.seen;
  const judgement = judge(replicas);
  const subnet = replicas.find(({ network }) => network)?.network;
  const isTrouble = judgement.disagreements.length > 0 || judgement.halted.length > 0 || judgement.keysDiffer;
  const canister = /^#\/canister\/([a-z0-9-]+)$/.exec(address)?.[1];
  useEffect(() => {
    const [, name] = PAGES.find(([page]) => page === address) ?? ['', canister ? `Canister ${canister}` : 'Replicas'];
    document.title = `${name} · Lockstep`;
  }, [address]);
  return (
    <>
      <a class="skip" href="#main" onClick={event => (event.preventDefault(), document.getElementById('main')?.focus())}>
        Skip to the content
      </a>
      <header>
        <h1>Lockstep</h1>
        <p class="quiet">
          {subnet ? <span title={subnet.subnet_id}>subnet {shortPrincipal(subnet.subnet_id)}</span> : 'looking for replicas'}
        </p>
        <p class={`verdict ${isTrouble ? 'bad' : ''}`} data-verdict={isTrouble ? 'trouble' : 'agreement'}>
          {isTrouble
            ? '✗ trouble'
            : judgement.agreedHeight > 0
              ? `✓ ${replicas.length - judgement.silent.length} of ${replicas.length} replicas agree at height ${judgement.agreedHeight}`
              : 'no height yet that all know'}
        </p>
        <nav aria-label="Pages">
          {PAGES.map(([page, name]) => {
            const isHere = address === page || (page === '#/canisters' && canister !== undefined);
            return (
              <a key={page} href={page} {...(isHere ? { 'aria-current': 'page' as const } : {})}>
                {name}
              </a>
            );
          })}
        </nav>
      </header>
      <main id="main" tabIndex={-1}>
        <Alarms judgement={judgement} />
        {canister !== undefined ? (
          <CanisterView key={canister} id={canister} origin={origin} replicas={replicas} round={round} />
        ) : address === '#/blocks' ? (
          <Blocks replicas={replicas} />
        ) : address === '#/canisters' ? (
          <Canisters origin={origin} round={round} />
        ) : (
          <Overview replicas={replicas} judgement={judgement} />
        )}
      </main>
      <footer class="quiet">
        What replicas say about themselves is not certified. Calls are: each answer is verified in this browser.
        {subnet && ` Lockstep ${subnet.version}.`}
      </footer>
    </>
  );
}
