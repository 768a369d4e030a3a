// Replicas side by side, and their roots height by height.
import type { Block } from '../data/answers.ts';
import type { Judgement } from '../data/judge.ts';
import type { Seen } from '../data/watch.ts';
import { Chart } from './chart.tsx';
import { count, shortPrincipal } from './format.ts';
import { Root } from './root.tsx';

const HEIGHTS_SHOWN = 12;

export function Overview({ replicas, judgement }: { replicas: Seen[]; judgement: Judgement }) {
  const blocks = longest(replicas);
  const heights = `height ${blocks[0]?.height ?? 0}`;
  return (
    <>
      <h2>Replicas</h2>
      <ul class="cards">
        {replicas.map((replica, index) => (
          <Card key={replica.url} replica={replica} index={index} />
        ))}
      </ul>
      <h2>Roots by height</h2>
      <Roots replicas={replicas} judgement={judgement} />
      <h2>Blocks</h2>
      <div class="charts">
        <Chart title="Instructions per block" kind="bars" values={blocks.map(block => block.instructions)}
          format={count} from={heights} to={`${blocks.at(-1)?.height ?? 0}`} />
        <Chart title="Messages per block" kind="bars" values={blocks.map(block => block.messages)}
          format={count} from={heights} to={`${blocks.at(-1)?.height ?? 0}`} />
        <Chart title="Time between blocks" kind="line" values={intervals(blocks)}
          format={value => `${value.toFixed(0)} ms`} from={heights} to={`${blocks.at(-1)?.height ?? 0}`} />
      </div>
    </>
  );
}

// The blocks of the replica that knows most, oldest first.
export function longest(replicas: Seen[]): Block[] {
  const [most] = [...replicas].sort((a, b) => b.blocks.size - a.blocks.size);
  return [...(most?.blocks.values() ?? [])].sort((a, b) => a.height - b.height);
}

function intervals(blocks: Block[]): number[] {
  return blocks.slice(1).map((block, index) => (block.time_ns - blocks[index]!.time_ns) / 1e6);
}

function Card({ replica, index }: { replica: Seen; index: number }) {
  const { status, error } = replica;
  const state = error ? 'silent' : status?.halted ? 'halted' : status ? 'running' : 'unknown';
  return (
    <li class={`card ${state}`} data-replica={index} data-state={state}>
      <h3>
        Replica {index} <span class={`badge ${state}`}>{state}</span>
      </h3>
      <p class="quiet">
        <a href={`${replica.url}/console/`}>{replica.url.replace(/^https?:\/\//, '')}</a>
        {status && <> · <span title={status.node_id}>{shortPrincipal(status.node_id)}</span></>}
      </p>
      {status && (
        <dl>
          <dt>Executed</dt>
          <dd>
            <span data-height>{status.executed_height}</span> <Root digest={status.executed_root} />
          </dd>
          <dt>Certified</dt>
          <dd>
            {status.certified_height}
            {status.certified_root && <> <Root digest={status.certified_root} /></>}
          </dd>
          <dt>Waiting calls</dt>
          <dd>{status.mempool_calls}</dd>
          <dt>Queries</dt>
          <dd>{count(status.queries_answered)}</dd>
          <dt>Instructions</dt>
          <dd>{count(status.instructions_executed)}</dd>
        </dl>
      )}
    </li>
  );
}

function Roots({ replicas, judgement }: { replicas: Seen[]; judgement: Judgement }) {
  const heights = [...new Set(replicas.flatMap(replica => [...replica.blocks.keys()]))].sort((a, b) => b - a);
  // Those where they differ stay in sight.
  const different = judgement.disagreements.map(({ height }) => height);
  const shown = [...new Set([...different.slice(0, HEIGHTS_SHOWN / 2), ...heights.slice(0, HEIGHTS_SHOWN)])];
  shown.sort((a, b) => b - a);
  if (shown.length === 0) return <p class="quiet">no block yet</p>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Roots by height">
      <table class="roots">
        <caption class="quiet">
          <span>
            The root of the state after each height, as each replica computed it. Equal roots have equal colours.
          </span>
        </caption>
        <thead>
          <tr>
            <th scope="col">Height</th>
            <th scope="col">Agreed</th>
            {replicas.map((replica, index) => (
              <th scope="col" key={replica.url}>Replica {index}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {shown.map(height => (
            <Row key={height} height={height} replicas={replicas} differs={different.includes(height)} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ height, replicas, differs }: { height: number; replicas: Seen[]; differs: boolean }) {
  const blocks = replicas.map(replica => replica.blocks.get(height));
  const all = blocks.every(block => block !== undefined);
  const certified = blocks.some(block => block?.certified);
  const verdict = differs ? 'differ' : !all ? 'waiting' : certified ? 'equal, certified' : 'equal';
  return (
    <tr class={differs ? 'differs' : ''} data-roots={height} data-verdict={verdict}>
      <th scope="row">{height}</th>
      <td>
        {differs ? '≠ ' : all ? '✓ ' : ''}
        {verdict}
      </td>
      {blocks.map((block, index) => (
        <td key={index}>{block ? <Root digest={block.root} /> : <span class="quiet">…</span>}</td>
      ))}
    </tr>
  );
}
