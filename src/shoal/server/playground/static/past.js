// Past runs, kept in this browser.

import { dialog, h } from "./dom.js";
import { history } from "./store.js";
import { ago, money, plural, seconds, short } from "./words.js";

/** Keep what was asked and what it came to; every draw would be too much. */
export function remember(state, results) {
  history.add({
    at: Date.now(), state,
    results: results.map(({ name, run }) => ({
      name, model: run.question.model, status: run.status, seconds: run.seconds, tokens: run.tokens, calls: run.finishedCalls.length, cost: run.cost,
      short: run.answer?.short ?? null, text: (run.answer?.text ?? "").slice(0, 8000), failure: run.failure?.meaning ?? null,
    })),
  });
}

/** The list of past runs; `restore` is given the state of the one that is chosen. */
export function openHistory(restore) {
  const runs = history.all();
  const list = h("ol", { class: "past" }, runs.map((run) => item(run, () => { box.close(); restore(run.state); })));
  const clear = h("button", { type: "button", class: "small", onclick: () => { history.clear(); box.close(); } }, "Clear history");
  const box = dialog("History", runs.length
    ? [h("p", { class: "soft" }, "Kept in this browser only: the question, the settings and the answers."), list, h("div", { class: "dialog-foot" }, h("span", { class: "spacer" }), clear)]
    : [h("p", { class: "soft" }, "Nothing yet. What you run is kept here, in this browser only.")], { kind: "drawer" });
}

function item(run, restore) {
  return h("li", {},
    h("p", { class: "past-head" }, h("strong", {}, short(run.state.question, 120)), h("span", { class: "soft" }, ago(run.at))),
    run.results.map((result) => h("details", {},
      h("summary", {}, h("span", { class: "past-name" }, result.name), h("span", { class: "past-said" }, short(result.short ?? result.failure ?? (result.text || result.status), 50)),
        h("span", { class: "soft" }, [result.model, plural(result.calls, "call"), seconds(result.seconds), result.cost === null ? "" : money(result.cost)].filter(Boolean).join(" · "))),
      h("pre", {}, result.text || result.failure || result.status))),
    h("button", { type: "button", class: "small", onclick: restore }, "Use again"));
}
