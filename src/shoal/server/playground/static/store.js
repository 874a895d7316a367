// What this browser keeps: own presets, past runs, the question being written, the theme. Nothing of it is sent.

const MOST_RUNS = 40;
const LONGEST = 400_000; // characters of all past runs together

function read(name, otherwise) {
  try { return JSON.parse(localStorage.getItem(`shoal.${name}`)) ?? otherwise; } catch { return otherwise; }
}

function write(name, value) {
  try { localStorage.setItem(`shoal.${name}`, JSON.stringify(value)); return true; } catch { return false; }
}

const list = (name) => { const value = read(name, []); return Array.isArray(value) ? value : []; };

export const draft = { get: () => read("draft", null), set: (value) => write("draft", value) };

export const presets = {
  all: () => list("presets").filter((preset) => preset && typeof preset.name === "string" && typeof preset.model === "string"),
  save: (preset) => write("presets", [...presets.all().filter((other) => other.name !== preset.name), preset]),
  remove: (name) => write("presets", presets.all().filter((preset) => preset.name !== name)),
};

export const history = {
  all: () => list("history").filter((run) => run && run.state && Array.isArray(run.results)),
  /** The newest first; the oldest go where there are too many, or too much. */
  add(run) {
    const runs = [run, ...history.all()].slice(0, MOST_RUNS);
    while (runs.length > 1 && JSON.stringify(runs).length > LONGEST) runs.pop();
    while (runs.length && !write("history", runs)) runs.pop();
  },
  clear: () => write("history", []),
};

export const theme = {
  get: () => document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"),
  set(value) {
    document.documentElement.dataset.theme = value;
    try { localStorage.setItem("shoal.theme", value); } catch { /* until the page is left */ }
  },
};
