// Numbers and digests as people read them.

const BYTES = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
const COUNTS = ['', ' k', ' M', ' G', ' T', ' P'];

function scaled(value: number, base: number, units: string[]): string {
  let unit = 0;
  let rest = value;
  while (Math.abs(rest) >= base && unit + 1 < units.length) {
    rest /= base;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(rest) >= 100 ? 0 : Math.abs(rest) >= 10 ? 1 : 2;
  return `${rest.toFixed(digits)}${units[unit]}`;
}

export function bytes(value: number): string {
  const text = scaled(value, 1024, BYTES.map(unit => ` ${unit}`));
  return text;
}

export function count(value: number): string {
  return scaled(value, 1000, COUNTS);
}

// Cycles exceed what numbers hold exactly; what is shown has three digits.
export function cycles(value: string): string {
  return count(Number(value));
}

export function short(digest: string, length = 8): string {
  return digest.slice(0, length);
}

// The first and the last group of a principal.
export function shortPrincipal(text: string): string {
  const groups = text.split('-');
  return groups.length <= 3 ? text : `${groups[0]}…${groups.at(-1)}`;
}

export function clock(timeNs: number): string {
  return new Date(timeNs / 1e6).toISOString().slice(11, 19);
}

// A hue for a digest, so that different ones look different at a glance; the text beside it says which.
export function hue(digest: string): number {
  return (Number.parseInt(digest.slice(0, 4), 16) * 360) / 65536;
}
