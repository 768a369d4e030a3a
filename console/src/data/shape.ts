// Checks that an answer has the shape that the console relies on. A replica may answer anything.

type Kind = 'string' | 'number' | 'boolean' | 'string?' | 'strings';
export type Shape<T> = Partial<Record<keyof T & string, Kind>>;

// The value, if its fields are of these kinds.
export function shaped<T>(value: unknown, shape: Shape<T>): T {
  const record = value as Record<string, unknown> | null;
  for (const [field, kind] of Object.entries(shape) as [string, Kind][]) {
    if (typeof record !== 'object' || record === null || !is(record[field], kind)) {
      throw new Error(`its answer is not one of a replica: ${field} is no ${kind.replace('?', '')}`);
    }
  }
  return value as T;
}

export function allShaped<T>(values: unknown, shape: Shape<T>): T[] {
  if (!Array.isArray(values)) throw new Error('its answer is not one of a replica: it is no list');
  return values.map(value => shaped<T>(value, shape));
}

function is(value: unknown, kind: Kind): boolean {
  switch (kind) {
    case 'string?':
      return value === null || typeof value === 'string';
    case 'strings':
      return Array.isArray(value) && value.every(item => typeof item === 'string');
    default:
      return typeof value === kind;
  }
}
