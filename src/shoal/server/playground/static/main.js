// The page: a question, up to four configurations, and what each makes of it.

import * as api from "./api.js";
import { drawComparison } from "./comparison.js";
import { ConfigCard } from "./config_card.js";
import { $, copy, dialog, h, say, toast } from "./dom.js";
import { openExport } from "./export.js";
import { openHistory, remember } from "./past.js";
import { Run } from "./run.js";
import { RunView } from "./run_view.js";
import { LETTERS, SAMPLING, checked, columnOf, fromFragment, linkTo, noSettings, questionFor } from "./state.js";
import { draft, presets, theme } from "./store.js";
import { plural, range, seconds, short } from "./words.js";

const EXAMPLES = [
  "A bat and a ball cost $1.10 together. The bat costs $1.00 more than the ball. How much does the ball cost?",
  "Three friends share 17 coins. Ann has twice as many as Ben, and Cem has two more than Ben. How many has Ben?",
  "Write a Python function that says whether a string reads the same backwards, and explain it in one sentence.",
];
const emptyColumn = (spec) => ({ spec, preset: "", own: noSettings() });

let catalogue = { models: [], techniques: [], presets: [], prices: {}, limits: {} };
let state = null;
let columns = []; // { data, card, element, run, view, name, spec }, the last four of its last run
let ticking = 0;
let compared = 0; // when the comparison was drawn
let asked = null; // the state of the run that is on show

// Start

async function start() {
  drawTheme();
  $("run-keys").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘ ↵" : "Ctrl ↵";
  try {
    catalogue = await api.catalogue();
  } catch (error) {
    if (error.status === 401) askForKey(Boolean(api.key.get()));
    else notice(error);
    return;
  }
  $("notice").hidden = true;
  $("open-key").hidden = !api.key.get();
  if (!catalogue.models.length && !catalogue.presets.length) {
    notice({ meaning: "No model is served to you here", advice: "Start the server with a model, as in `shoal serve -m local`, or ask for a key that covers one." });
    return;
  }
  show(fromFragment(location.hash) ?? checked(draft.get()) ?? firstState());
  $("question").focus();
}

function firstState() {
  const [model] = catalogue.models;
  if (!model) return { question: "", ...noSettings(), columns: [anotherColumn()] };
  const best = catalogue.techniques.find(({ slug }) => slug === "self_consistency") ?? catalogue.techniques[0];
  return { question: "", ...noSettings(), columns: [emptyColumn(model), ...(best ? [emptyColumn(`${best.slug}@${model}`)] : [])] };
}

/** A plain model; for a key that covers presets only, the first of them. */
const anotherColumn = () => (catalogue.models.length ? emptyColumn(catalogue.models[0]) : columnOf(catalogue.presets[0]));

function show(next) {
  cancelAll();
  asked = null;
  state = next;
  $("question").value = state.question;
  $("system").value = state.system;
  for (const name of SAMPLING) $(name).value = state[name] ?? "";
  $("columns").replaceChildren();
  columns = [];
  state.columns.forEach(addColumn);
  drawComparison($("comparison"), []);
  changed();
  grow();
}

function notice({ meaning, detail, advice }) {
  $("notice").replaceChildren(h("strong", {}, meaning), ` ${advice ?? ""}`, detail ? h("p", { class: "exactly" }, detail) : "",
    h("button", { type: "button", class: "small", onclick: start }, "Try again"));
  $("notice").hidden = false;
}

function askForKey(refused) {
  if (document.querySelector("dialog.key")) return;
  const field = h("input", { type: "password", autocomplete: "off", required: true, "aria-label": "Key" });
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); api.key.set(field.value.trim()); box.close(); start(); } },
    h("p", {}, refused ? "That key was not accepted. Enter another one." : "This server asks for a key. Enter the one you were given."), field,
    h("div", { class: "dialog-foot" }, h("span", { class: "soft" }, "Kept until this tab is closed."), h("span", { class: "spacer" }), h("button", { type: "submit", class: "primary" }, "Enter")));
  const box = dialog("Key", [form], { kind: "key", onclose: () => { if (!columns.length) notice({ meaning: "A key is needed.", advice: "" }); } });
  field.focus();
}

// Columns

function addColumn(data) {
  const entry = { data, run: null, view: null };
  entry.element = h("article", { class: "card" });
  entry.card = new ConfigCard(data, {
    catalogue, changed, estimated: drawCost,
    hasResult: () => Boolean(entry.run),
    menuOf: () => menuOf(entry),
  });
  entry.element.append(entry.card.element);
  $("columns").append(entry.element);
  columns.push(entry);
  arrange();
  return entry;
}

function arrange() {
  $("columns").dataset.count = columns.length;
  columns.forEach((entry, i) => entry.card.place(LETTERS[i]));
  $("add").hidden = columns.length >= LETTERS.length;
}

function removeColumn(entry) {
  entry.run?.cancel();
  entry.element.remove();
  columns.splice(columns.indexOf(entry), 1);
  state.columns.splice(state.columns.indexOf(entry.data), 1);
  arrange();
  changed();
  redrawComparison();
}

function newColumn(data) {
  state.columns.push(data);
  const entry = addColumn(data);
  changed();
  entry.element.querySelector("select")?.focus();
}

function menuOf(entry) {
  const exported = () => openExport(`“${entry.card.name}” elsewhere`, questionFor(state, entry.data, catalogue.presets), entry.data.spec, entry.run?.status === "running" ? null : entry.run?.result ?? null, Boolean(api.key.get()), entry.card.name);
  return [
    ["Copy as curl, Python, JSON…", exported],
    ["Save as preset…", () => savePreset(entry)],
    ...(presets.all().some(({ name }) => name === entry.data.preset) ? [["Delete this preset", () => { presets.remove(entry.data.preset); entry.data.preset = ""; refreshCards(); toast("Preset deleted"); }]] : []),
    ...(columns.length < LETTERS.length ? [["Duplicate", () => newColumn(structuredClone(entry.data))]] : []),
    ...(entry.run && entry.run.status !== "running" ? [["Run only this again", () => runColumns([entry])]] : []),
    ...(columns.length > 1 ? [["Remove", () => removeColumn(entry)]] : []),
  ];
}

function savePreset(entry) {
  const field = h("input", { type: "text", required: true, maxlength: "60", value: entry.data.preset, "aria-label": "Name" });
  const form = h("form", { onsubmit: (event) => {
    event.preventDefault();
    const { model: _, messages, ...sampling } = questionFor(state, entry.data, []);
    const system = messages.find(({ role }) => role === "system")?.content ?? "";
    const kept = presets.save({ name: field.value.trim(), model: entry.data.spec, system, ...sampling });
    box.close();
    if (!kept) { toast("Not saved: this browser’s storage is full or switched off"); return; }
    entry.data.preset = field.value.trim();
    refreshCards();
    toast("Preset saved in this browser");
  } }, h("p", { class: "soft" }, "The model, its techniques, the system prompt and the sampling, under a name of your own."), field,
  h("div", { class: "dialog-foot" }, h("span", { class: "spacer" }), h("button", { type: "submit", class: "primary" }, "Save")));
  const box = dialog("Save as preset", [form]);
  field.focus();
}

function refreshCards() {
  for (const { card } of columns) { card.build(); card.drawForm(); card.draw(); }
  changed();
}

// What is written

function changed() {
  if (!state) return;
  state.question = $("question").value;
  state.system = $("system").value;
  for (const name of SAMPLING) state[name] = $(name).value === "" ? null : Number($(name).value);
  draft.set(state);
  const said = [state.system && "system prompt", ...SAMPLING.map((name) => state[name] !== null && `${name.replaceAll("_", " ")} ${state[name]}`)].filter(Boolean);
  $("settings-said").textContent = said.join(", ");
  drawExamples();
  drawCost();
}

function drawCost() {
  const known = columns.map(({ card }) => card.estimate).filter(Boolean);
  const sum = (name) => known.reduce((total, estimate) => total + estimate[name], 0);
  const wrong = columns.some(({ card }) => card.error);
  const running = columns.some(({ run }) => run?.status === "running");
  $("cost").textContent = running || known.length < columns.length ? "" : `${range(sum("fewest"), sum("calls"))} ${sum("calls") === 1 ? "call" : "calls"} in all`;
  $("run").disabled = wrong || running || !columns.length;
  $("run").hidden = running;
  $("cancel").hidden = !running;
}

function drawExamples() {
  const box = $("examples");
  box.hidden = Boolean(state.question || columns.some(({ run }) => run));
  if (box.hidden || box.childElementCount) return;
  box.append(...EXAMPLES.map((text) => h("button", { type: "button", onclick: () => { $("question").value = text; changed(); grow(); $("question").focus(); } }, text)));
}

/** The question's field is as high as the question, within reason. */
function grow() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, 320)}px`;
}

// Running

function runAll() {
  changed();
  if (!state || $("run").disabled || columns.some(({ run }) => run?.status === "running")) return;
  if (!state.question.trim()) {
    toast("Write a question first");
    $("question").focus();
    return;
  }
  runColumns(columns);
}

function runColumns(entries) {
  asked = structuredClone(state);
  for (const entry of entries) {
    entry.view?.element.remove();
    entry.name = entry.card.name;
    entry.spec = entry.data.spec;
    entry.run = new Run(questionFor(asked, entry.data, catalogue.presets), catalogue.prices, (run, nodes) => onEvent(entry, run, nodes));
    entry.view = new RunView(entry.run, { cancel: () => entry.run.cancel(), again: () => runColumns([entry]) });
    entry.element.append(entry.view.element);
    entry.card.fold(true);
    entry.run.start();
  }
  clearInterval(ticking);
  ticking = setInterval(tick, 100);
  tick();
  changed();
  redrawComparison();
  say("Running");
}

function onEvent(entry, run, nodes) {
  if (entry.run !== run) return;
  entry.view.update(nodes);
  if (run.status !== "running") ended(entry);
}

function ended(entry) {
  const { run, name } = entry;
  const outcome = { done: run.answer ? short(run.answer.short ?? "answered", 80) : "", failed: run.failure?.meaning, cancelled: "cancelled" }[run.status];
  say(`${LETTERS[columns.indexOf(entry)] ?? ""}, ${name}: ${outcome}. ${plural(run.finishedCalls.length, "call")}, ${seconds(run.seconds)}`);
  if (run.failure?.status === 401) askForKey(Boolean(api.key.get()));
  redrawComparison();
  if (columns.some((other) => other.run?.status === "running")) return;
  clearInterval(ticking);
  const results = shownResults();
  if (results.some((result) => result.run.status === "done")) remember(asked, results);
  changed();
}

/** The columns' last runs of the question that was asked last; a run of another question is nothing to compare with. */
const shownResults = () => columns.flatMap(({ name, spec, run }, i) => (
  run && run.question.messages.at(-1).content === asked.question ? [{ letter: LETTERS[i], name, spec, run }] : []));
function redrawComparison() {
  compared = performance.now();
  drawComparison($("comparison"), shownResults());
}

function tick() {
  for (const { run, view } of columns) if (run?.status === "running") view.tick();
  if (performance.now() - compared > 500) redrawComparison();
}

const cancelAll = () => { for (const { run } of columns) run?.cancel(); };

// Keys and buttons

function drawTheme() {
  const dark = theme.get() === "dark";
  $("theme").textContent = dark ? "☀" : "☾";
  $("theme").setAttribute("aria-label", dark ? "Light colours" : "Dark colours");
}

$("theme").addEventListener("click", () => { theme.set(theme.get() === "dark" ? "light" : "dark"); drawTheme(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTheme);
$("composer").addEventListener("submit", (event) => { event.preventDefault(); runAll(); });
$("composer").addEventListener("input", () => { changed(); grow(); });
$("cancel").addEventListener("click", cancelAll);
$("add").addEventListener("click", () => newColumn(anotherColumn()));
$("share").addEventListener("click", () => { changed(); copy(linkTo(state), "Link"); });
$("open-history").addEventListener("click", () => openHistory((past) => { const found = checked(past); if (found) show(found); }));
$("open-settings").addEventListener("click", () => {
  const opening = $("settings").hidden;
  $("settings").hidden = !opening;
  $("open-settings").setAttribute("aria-expanded", String(opening));
  if (opening) $("system").focus();
});
$("open-key").addEventListener("click", () => askForKey(false));
addEventListener("hashchange", () => { const linked = fromFragment(location.hash); if (linked) show(linked); });
addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); runAll(); }
  if (event.key === "Escape") cancelAll();
});

start();
