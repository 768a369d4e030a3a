// The last blocks.
import type { Seen } from '../data/watch.ts';
import { clock, count } from './format.ts';
import { longest } from './overview.tsx';
import { Root } from './root.tsx';

export function Blocks({ replicas }: { replicas: Seen[] }) {
  const blocks = longest(replicas).reverse();
  return (
    <>
      <h2>Blocks</h2>
      {blocks.length === 0 && <p class="quiet">no block yet</p>}
      <div class="scroll" tabIndex={0} role="region" aria-label="Blocks">
        <table>
          <caption class="quiet">
            <span>The last {blocks.length} blocks, newest first; times are those of the blocks, in UTC.</span>
          </caption>
          <thead>
            <tr>
              <th scope="col">Height</th>
              <th scope="col">Time</th>
              <th scope="col">Root</th>
              <th scope="col">Digest</th>
              <th scope="col">Certified</th>
              <th scope="col" class="number">Calls</th>
              <th scope="col" class="number">Messages</th>
              <th scope="col" class="number">Instructions</th>
              <th scope="col" class="number">Model work</th>
            </tr>
          </thead>
          <tbody>
            {blocks.map(block => (
              <tr key={block.height}>
                <th scope="row">{block.height}</th>
                <td>{clock(block.time_ns)}</td>
                <td><Root digest={block.root} /></td>
                <td><Root digest={block.digest} /></td>
                <td>{block.certified ? '✓ yes' : 'not yet'}</td>
                <td class="number">{block.calls}</td>
                <td class="number">{block.messages}</td>
                <td class="number">{count(block.instructions)}</td>
                <td class="number">{count(block.session_work)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
