// Says whether an answer was verified, by what, and with which key.
import type { Outcome } from '../data/agent.ts';
import { shortPrincipal } from './format.ts';

export function Verdict({ outcome, rootKey }: { outcome: Outcome; rootKey: string }) {
  switch (outcome.kind) {
    case 'refused':
      return (
        <p class="proof bad" data-proof="refused">
          <strong>✗ Refused.</strong> What came does not verify, so nothing of it is shown. {outcome.text}
        </p>
      );
    case 'failed':
      return (
        <p class="proof bad" data-proof="failed">
          <strong>✗ No answer.</strong> {outcome.text}
        </p>
      );
    case 'rejected':
      return (
        <>
          <p class="proof bad" data-proof="rejected"><strong>Rejected.</strong> {outcome.text}</p>
          {outcome.evidence ? (
            <Proof evidence={outcome.evidence} rootKey={rootKey} />
          ) : (
            <p class="proof mild" data-proof="unverified">Only this replica says so: nothing is signed.</p>
          )}
        </>
      );
    case 'replied':
      return <Proof evidence={outcome.evidence} rootKey={rootKey} />;
  }
}

function Proof({ evidence, rootKey }: { evidence: NonNullable<Extract<Outcome, { kind: 'rejected' }>['evidence']>; rootKey: string }) {
  // The end of the key: its beginning is the same for all.
  const key = <code title={rootKey}>…{rootKey.slice(-16)}</code>;
  if (evidence.kind === 'certificate') {
    return (
      <p class="proof good" data-proof="certificate">
        <strong>✓ Verified:</strong> the subnet's certificate
        {evidence.time && ` of ${evidence.time.toISOString().slice(11, 23)}`}, signed by more than two thirds of its nodes,
        with root key {key}.
      </p>
    );
  }
  return (
    <p class="proof good" data-proof="node">
      <strong>✓ Verified:</strong> signed by node{' '}
      {evidence.nodes.map(node => <span key={node} title={node}>{shortPrincipal(node)} </span>)}
      at {evidence.time.toISOString().slice(11, 23)}, whose key the subnet certifies with root key {key}. One node
      vouches for a query; the subnet vouches for an update.
    </p>
  );
}

