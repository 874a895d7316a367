// What is asked of whom, as plain data: it goes into links, drafts and the history, and comes back checked.

export const LETTERS = ["A", "B", "C", "D"];
export const SAMPLING = ["temperature", "top_p", "max_tokens", "seed"];
const LONGEST = 100_000;

const text = (value) => (typeof value === "string" ? value.slice(0, LONGEST) : "");
const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

/** The settings in a value that may come from anywhere: `system`, numbers or null, and the strings to stop at. */
function settings(value) {
  const found = { system: text(value?.system) };
  for (const name of SAMPLING) found[name] = number(value?.[name]);
  found.stop = Array.isArray(value?.stop) ? value.stop.filter((item) => typeof item === "string").slice(0, 16).map(text) : [];
  return found;
}

/** A state of the page from a value that may come from anywhere; null where it is none. */
export function checked(value) {
  if (!value || typeof value !== "object" || !Array.isArray(value.columns)) return null;
  const columns = value.columns.slice(0, LETTERS.length)
    .filter((column) => column && typeof column.spec === "string")
    .map((column) => ({ spec: text(column.spec), preset: text(column.preset), own: settings(column.own) }));
  return columns.length ? { question: text(value.question), ...settings(value), columns } : null;
}

/** The state in the address's fragment, or null. */
export function fromFragment(hash) {
  const found = /^#s=([\w-]+)$/.exec(hash);
  if (!found) return null;
  try {
    const bytes = Uint8Array.from(atob(found[1].replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    return checked(JSON.parse(new TextDecoder().decode(bytes)));
  } catch {
    return null;
  }
}

/** The address that brings this state back. */
export function linkTo(state) {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  const code = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return `${location.origin}${location.pathname}#s=${code.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

export const noSettings = () => settings(null);

/** A column that is as a preset says. */
export const columnOf = (preset) => ({ spec: preset.model, preset: preset.name, own: settings(preset) });

/** The model of a column by the name of its preset, where that is one of the server's and unchanged: a key may cover no more. */
export function modelOf(column, presets) {
  return presets.some(({ name, model }) => name === column.preset && model === column.spec) ? column.preset : column.spec;
}

/** What the server is asked for one column: its own settings go before those of all. `presets` are the server's. */
export function questionFor(state, column, presets) {
  const system = column.own.system || state.system;
  const messages = [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: state.question }];
  const asked = { model: modelOf(column, presets), messages };
  for (const name of SAMPLING) {
    const value = column.own[name] ?? state[name];
    if (value !== null) asked[name] = value;
  }
  if (column.own.stop.length) asked.stop = column.own.stop;
  return asked;
}
