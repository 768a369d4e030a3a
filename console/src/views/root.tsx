// A root, short, with a colour of its own.
import { hue, short } from './format.ts';

export function Root({ digest, length = 8 }: { digest: string; length?: number }) {
  return (
    <span class="root" title={digest}>
      <svg class="chip" viewBox="0 0 8 8" aria-hidden="true">
        <rect width="8" height="8" fill={`hsl(${hue(digest).toFixed(0)} 65% 50%)`} />
      </svg>
      <code>{short(digest, length)}</code>
    </span>
  );
}
