// Charts in SVG, drawn by hand: a line through samples, or a bar for each.
interface Properties {
  title: string;
  values: number[];
  format: (value: number) => string;
  kind: 'line' | 'bars';
  // What the first and the last sample are.
  from: string;
  to: string;
}

const WIDTH = 320;
const HEIGHT = 96;
const TOP = 8;

export function Chart({ title, values, format, kind, from, to }: Properties) {
  const last = values.at(-1);
  if (last === undefined) {
    return (
      <figure class="chart">
        <figcaption>{title}</figcaption>
        <p class="quiet">nothing yet</p>
      </figure>
    );
  }
  const most = Math.max(...values);
  const least = Math.min(...values);
  // Bars begin at nothing; a line shows what changes.
  const low = kind === 'bars' ? 0 : least;
  const span = most - low || 1;
  const y = (value: number) => (most === low ? HEIGHT / 2 : HEIGHT - ((value - low) / span) * (HEIGHT - TOP));
  const said = `${title}: ${format(last)} last, ${format(least)} to ${format(most)} over ${values.length} samples`;
  return (
    <figure class="chart">
      <figcaption>
        {title} <strong>{format(last)}</strong>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={said}>
        <line class="axis" x1="0" x2={WIDTH} y1={HEIGHT} y2={HEIGHT} />
        {kind === 'bars' ? bars(values, y) : line(values, y)}
      </svg>
      <div class="scale" aria-hidden="true">
        <span>{from}</span>
        <span>
          {format(low)} to {format(most)}
        </span>
        <span>{to}</span>
      </div>
    </figure>
  );
}

function bars(values: number[], y: (value: number) => number) {
  const step = WIDTH / Math.max(values.length, 16);
  return values.map((value, index) => {
    const top = value === 0 ? HEIGHT : Math.min(y(value), HEIGHT - 1);
    return (
      <rect class="bar" key={index} x={index * step} y={top} width={Math.max(step - 1, 0.5)} height={HEIGHT - top} />
    );
  });
}

function line(values: number[], y: (value: number) => number) {
  const step = values.length > 1 ? WIDTH / (values.length - 1) : 0;
  const points = values.map((value, index) => `${(index * step).toFixed(1)},${y(value).toFixed(1)}`);
  if (points.length === 1) points.push(`${WIDTH},${y(values[0]!).toFixed(1)}`);
  return <polyline class="line" points={points.join(' ')} />;
}
