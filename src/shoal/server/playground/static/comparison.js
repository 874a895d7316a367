// All columns at a glance: who agrees with whom, and what it took.

import { h } from "./dom.js";
import { count, money, plural, seconds, short } from "./words.js";

/** Draw the results `[{ letter, name, spec, run }]` into the box; it hides where there is nothing to compare. */
export function drawComparison(box, results) {
  box.hidden = results.length < 2 || results.every(({ run }) => run.status === "failed" || run.status === "cancelled");
  if (box.hidden) return;
  const groups = groupsOf(results);
  const most = (figure) => Math.max(...results.map(({ run }) => figure(run) ?? 0), 0);
  const tops = { calls: most((run) => run.finishedCalls.length), tokens: most((run) => run.tokens), time: most((run) => run.seconds), cost: most((run) => run.cost) };
  const names = new Set(results.map(({ name }) => name));
  const bases = new Set(results.map(({ spec }) => spec.split("@").at(-1)));
  const named = names.size === results.length && bases.size === 1; // what the names leave open, the specs tell
  const priced = results.some(({ run }) => run.cost !== null);
  const head = ["", "Answer", "Calls", "Tokens", "Time", ...(priced ? ["Cost"] : [])];
  box.replaceChildren(
    h("p", { class: "verdict" }, verdict(results, groups)),
    h("div", { class: "table-box" }, h("table", {},
      h("thead", {}, h("tr", {}, head.map((name, i) => h("th", { scope: "col", class: i > 1 ? "number" : "" }, name || h("span", { class: "sr" }, "Configuration"))))),
      h("tbody", {}, results.map((result) => row(result, groups, tops, { priced, named }))))));
}

/** The finished columns by what their answers come to, the largest group first. */
function groupsOf(results) {
  const groups = new Map();
  for (const { letter, run } of results) {
    const form = run.answer?.form;
    if (form === null || form === undefined) continue;
    groups.set(form, { short: run.answer.short, letters: [...(groups.get(form)?.letters ?? []), letter] });
  }
  return [...groups.values()].sort((a, b) => b.letters.length - a.letters.length);
}

function verdict(results, groups) {
  const answered = groups.reduce((sum, { letters }) => sum + letters.length, 0);
  const running = results.filter(({ run }) => run.status === "running").length;
  const rest = running ? ` ${plural(running, "column")} still running.` : "";
  if (running && answered < 2) return running === results.length ? "Running…" : `${results.length - running} of ${results.length} are there.`;
  if (answered < 2) return `${answered ? "Only one column has an answer to compare." : "There is no short answer to compare; read them below."}${rest}`;
  const [first] = groups;
  const all = answered < results.length ? `${answered} of ${results.length}` : answered === 2 ? "Both" : `All ${answered}`;
  if (groups.length === 1) return [`${all} agree: `, h("strong", {}, short(first.short, 80)), `.${rest}`];
  if (first.letters.length === 1) return `${answered === 2 ? "They" : "All"} differ.${rest}`;
  return [`${first.letters.length} of ${answered} agree: `, h("strong", {}, short(first.short, 80)), `.${rest}`];
}

function row({ letter, name, spec, run }, groups, tops, { priced, named }) {
  const group = groups.findIndex(({ letters }) => letters.includes(letter));
  const others = group < 0 ? [] : groups[group].letters.filter((other) => other !== letter);
  const agrees = others.length ? h("span", { class: "agrees" }, `✓ as ${others.join(", ")}`) : null;
  const said = { running: "…", failed: "failed", cancelled: "cancelled" }[run.status] ?? (short(run.answer.short ?? run.answer.text, 60) || h("span", { class: "soft" }, "empty reply"));
  return h("tr", { class: run.status },
    h("th", { scope: "row" }, h("span", { class: "letter" }, letter), h("span", { class: "row-name" }, name, named ? null : h("code", { class: "row-spec" }, spec))),
    h("td", { class: "said" }, h("span", {}, said), agrees),
    figure("Calls", count(run.finishedCalls.length), run.finishedCalls.length, tops.calls),
    figure("Tokens", count(run.tokens), run.tokens, tops.tokens),
    figure("Time", seconds(run.seconds), run.seconds, tops.time),
    priced ? figure("Cost", run.cost === null ? "–" : money(run.cost), run.cost ?? 0, tops.cost) : null);
}

function figure(name, text, value, top) {
  const bar = h("i", {});
  bar.style.width = `${top ? (100 * value) / top : 0}%`;
  return h("td", { class: "number", "data-name": name }, h("span", {}, text), value ? h("span", { class: "meter", "aria-hidden": "true" }, bar) : null);
}
