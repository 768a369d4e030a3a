// An input for a value of any type: what stands inside it is an input again.
import type { ComponentChildren } from 'preact';
import { labelText, resolve, typeText, type Field, type Type } from '../candid/syntax.ts';
import { empty, type Draft } from './draft.ts';
import type { EntryError } from './value.ts';

interface Properties {
  type: Type;
  draft: Draft;
  types: Map<string, Type>;
  // What the value is called, and where it is: the same place as in an `EntryError`.
  name: string;
  path: string;
  docs?: string;
  error: EntryError | undefined;
  change: (draft: Draft) => void;
}

// The id of the input at a place.
export function entryId(path: string): string {
  return `entry-${path}`;
}

const HINTS: Record<string, string> = {
  principal: 'aaaaa-aa',
  blob: 'hexadecimal, or "text"',
  text: '',
};

export function Entry(properties: Properties) {
  const { draft, types, change, path } = properties;
  const type = resolve(properties.type, types);
  switch (draft.kind) {
    case 'nothing':
      return <p class="entry"><span class="name">{properties.name}</span> <span class="quiet">{typeText(type)}</span></p>;
    case 'bool':
      return (
        <label class="entry check">
          <input id={entryId(path)} type="checkbox" checked={draft.value}
            onChange={event => change({ kind: 'bool', value: event.currentTarget.checked })} />
          <span class="name">{properties.name}</span> <span class="quiet">bool</span>
        </label>
      );
    case 'text':
      return <TextEntry {...properties} text={draft.text} />;
    case 'opt':
      return <OptEntry {...properties} some={draft.some} />;
    case 'vec':
      return <VecEntry {...properties} items={draft.items} />;
    case 'record':
      return (
        <Group {...properties}>
          {type.kind === 'record' &&
            type.fields.map(field => (
              <Entry key={field.label} type={field.type} draft={draft.fields[field.label] ?? { kind: 'nothing' }}
                types={types} name={labelText(field.label)} path={`${path}.${labelText(field.label)}`} docs={field.docs}
                error={properties.error}
                change={inner => change({ kind: 'record', fields: { ...draft.fields, [field.label]: inner } })} />
            ))}
        </Group>
      );
    case 'variant':
      return type.kind === 'variant' ? (
        <VariantEntry {...properties} fields={type.fields} label={draft.label} value={draft.value} />
      ) : null;
    case 'func':
      return (
        <Group {...properties}>
          <label class="entry">
            <span class="name">canister</span>
            <input id={entryId(path)} value={draft.service} placeholder={HINTS.principal} spellcheck={false}
              onInput={event => change({ ...draft, service: event.currentTarget.value })} />
          </label>
          <label class="entry">
            <span class="name">method</span>
            <input value={draft.method} spellcheck={false}
              onInput={event => change({ ...draft, method: event.currentTarget.value })} />
          </label>
        </Group>
      );
  }
}

function TextEntry({ type, types, name, path, docs, error, text, change }: Properties & { text: string }) {
  const kind = typeText(resolve(type, types));
  const isLong = kind === 'text' || kind === 'blob';
  const isWrong = error?.path === path;
  const described = `${entryId(path)}-hint`;
  const common = {
    id: entryId(path),
    value: text,
    placeholder: HINTS[kind] ?? '',
    spellcheck: false,
    autocomplete: 'off',
    'aria-invalid': isWrong,
    'aria-describedby': described,
    onInput: (event: { currentTarget: { value: string } }) => change({ kind: 'text', text: event.currentTarget.value }),
  } as const;
  const isNumber = /^(nat|int)\d*$/.test(kind);
  return (
    <div class="entry">
      <label for={entryId(path)}>
        <span class="name">{name}</span> <span class="quiet">{typeText(type)}</span>
      </label>
      {isLong ? <textarea rows={1} {...common} /> : <input inputMode={isNumber ? 'numeric' : 'text'} {...common} />}
      <span id={described} class={isWrong ? 'wrong' : 'quiet'}>
        {isWrong ? error.reason : docs}
      </span>
    </div>
  );
}

function Group({ name, type, docs, children }: Properties & { children: ComponentChildren }) {
  return (
    <fieldset class="entry">
      <legend>
        <span class="name">{name}</span> <span class="quiet">{typeText(type)}</span>
      </legend>
      {docs && <p class="quiet">{docs}</p>}
      {children}
    </fieldset>
  );
}

function OptEntry(properties: Properties & { some: Draft | undefined }) {
  const { type, types, name, some, change } = properties;
  const opt = resolve(type, types);
  if (opt.kind !== 'opt') return null;
  const give = (given: boolean) => change({ kind: 'opt', some: given ? empty(opt.of, types) : undefined });
  return (
    <Group {...properties}>
      <label class="check">
        <input type="checkbox" aria-label={`Give ${name}`} checked={some !== undefined}
          onChange={event => give(event.currentTarget.checked)} />
        given
      </label>
      {some && (
        <Entry {...properties} type={opt.of} draft={some} name="value" docs=""
          change={inner => change({ kind: 'opt', some: inner })} />
      )}
    </Group>
  );
}

function VecEntry(properties: Properties & { items: Draft[] }) {
  const { type, types, path, items, change, name } = properties;
  const vec = resolve(type, types);
  if (vec.kind !== 'vec') return null;
  const add = () => {
    const item = empty(vec.of, types);
    if (item) change({ kind: 'vec', items: [...items, item] });
  };
  return (
    <Group {...properties}>
      {items.map((item, index) => (
        <div class="item" key={index}>
          <Entry {...properties} type={vec.of} draft={item} name={`${index}`} path={`${path}[${index}]`} docs=""
            change={inner => change({ kind: 'vec', items: items.map((old, at) => (at === index ? inner : old)) })} />
          <button type="button" aria-label={`Remove ${name} ${index}`}
            onClick={() => change({ kind: 'vec', items: items.filter((_, at) => at !== index) })}>
            Remove
          </button>
        </div>
      ))}
      <button type="button" id={entryId(path)} aria-label={`Add to ${name}`} onClick={add}>
        Add
      </button>
    </Group>
  );
}

function VariantEntry(properties: Properties & { fields: Field[]; label: string; value: Draft }) {
  const { types, path, fields, label, value, change, name } = properties;
  const chosen = fields.find(field => field.label === label);
  const choose = (next: string) => {
    const field = fields.find(field => field.label === next);
    const draft = field && empty(field.type, types);
    if (draft) change({ kind: 'variant', label: next, value: draft });
  };
  return (
    <Group {...properties}>
      <select id={entryId(path)} aria-label={`Alternative of ${name}`} value={label}
        onChange={event => choose(event.currentTarget.value)}>
        {fields.map(field => (
          <option key={field.label} value={field.label}>{labelText(field.label)}</option>
        ))}
      </select>
      {chosen && value.kind !== 'nothing' && (
        <Entry {...properties} type={chosen.type} draft={value} name={labelText(label)} docs={chosen.docs}
          path={`${path}.${labelText(label)}`} change={inner => change({ kind: 'variant', label, value: inner })} />
      )}
    </Group>
  );
}
