// What must be seen at once: replicas that differ, have halted or do not answer.
import type { Judgement } from '../data/judge.ts';

export function Alarms({ judgement }: { judgement: Judgement }) {
  const { disagreements, halted, silent, keysDiffer } = judgement;
  const [newest] = disagreements;
  return (
    <div role="alert" class="alarms">
      {newest && (
        <p class="alarm" data-alarm="disagreement">
          <strong>Replicas disagree.</strong> At height {newest.height} they have different roots
          {disagreements.length > 1 && `, and at ${disagreements.length - 1} more heights`}: see the table of roots.
        </p>
      )}
      {keysDiffer && (
        <p class="alarm" data-alarm="keys">
          <strong>Replicas give different root keys.</strong> They do not belong to one subnet, or one of them lies.
        </p>
      )}
      {halted.map(({ index, reason }) => (
        <p class="alarm" data-alarm="halted" key={`halted ${index}`}>
          <strong>Replica {index} has halted:</strong> {reason}
        </p>
      ))}
      {silent.map(({ index, reason }) => (
        <p class="alarm mild" data-alarm="silent" key={`silent ${index}`}>
          <strong>Replica {index} does not answer:</strong> {reason}
        </p>
      ))}
    </div>
  );
}
