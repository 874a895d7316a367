// The call tree and the waterfall in one: a line for each call, its bar in time, its prompt and reply when opened.

import * as api from "./api.js";
import { h, setRendered } from "./dom.js";
import { count, plural, seconds, short } from "./words.js";

const IN_SIGHT = 16; // rows beyond which a shadow tells that there are more
const MANY = 200; // rows beyond which those out of sight are not laid out

export class CallsView {
  constructor(run) {
    this.run = run;
    this.rows = new Map();
    this.list = h("ul", { class: "calls" });
    this.count = h("span", { class: "soft" });
    this.legend = h("p", { class: "legend", hidden: true },
      h("span", {}, h("i", { class: "critical" }), "what the answer waited for"), h("span", {}, h("i", {}), "meanwhile"));
    this.element = h("section", { class: "calls-box", hidden: true },
      h("h4", {}, "Calls ", this.count), this.box = h("div", { class: "scroll" }, this.list), this.legend);
  }

  update(nodes) {
    for (const node of nodes) {
      if (!this.rows.has(node.id)) this.append(node);
      this.drawRow(node);
    }
    this.box.classList.toggle("over", this.rows.size > IN_SIGHT);
    this.list.classList.toggle("many", this.rows.size > MANY);
    const { calls, finishedCalls, status } = this.run;
    this.count.textContent = status === "running" ? `${count(finishedCalls.length)} of ${count(calls)} so far` : count(calls);
  }

  append(node) {
    this.element.hidden = false;
    const row = { bar: h("i", {}), label: h("span", { class: "label" }), gist: h("span", { class: "gist" }), time: h("span", { class: "time" }), children: null };
    row.body = h("div", { class: "opened" });
    const track = h("span", { class: "track", "aria-hidden": "true" }, row.bar);
    row.details = h("details", { ontoggle: () => { if (row.details.open) this.fill(node, row); } },
      h("summary", {}, row.label, row.gist, track, row.time), row.body);
    row.item = h("li", { class: node.kind }, row.details);
    this.rows.set(node.id, row);
    const above = this.rows.get(node.parent);
    if (above && !above.children) above.item.append(above.children = h("ul", {}));
    (above?.children ?? this.list).append(row.item);
  }

  drawRow(node) {
    const row = this.rows.get(node.id);
    const state = node.end === null ? "running" : node.error ? "failed" : node.cancelled ? "cancelled" : node.cached ? "cached" : "";
    row.item.className = [node.kind, state, this.run.critical.has(node.id) ? "critical" : ""].join(" ");
    row.label.textContent = labelOf(node);
    row.gist.textContent = gistOf(node);
    row.gist.classList.toggle("strong", Boolean(node.candidate && node.short));
    row.time.textContent = node.end === null ? "" : seconds(node.end - node.at);
    row.bar.style.setProperty("--start", node.at);
    if (node.end !== null) row.bar.style.setProperty("--end", node.end);
    else row.bar.style.removeProperty("--end");
    if (row.details.open) this.fill(node, row);
  }

  /** Time goes on: the bars are drawn against it. */
  tick() {
    this.list.style.setProperty("--total", Math.max(this.run.seconds, 0.001));
  }

  finish() {
    this.tick();
    for (const node of this.run.nodes.values()) this.drawRow(node);
    this.legend.hidden = !this.run.critical.size || this.run.calls < 2;
  }

  /** Open a call and bring it into view. */
  show(node) {
    const row = this.rows.get(node.id);
    row.details.open = true;
    row.details.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    row.details.querySelector("summary").focus({ preventScroll: true });
  }

  fill(node, row) {
    if (row.filled === node.end && row.filled !== undefined) return;
    row.filled = node.end;
    const messages = this.run.prompts.get(node.prompt) ?? [];
    const reply = h("div", { class: "message reply" }, h("h5", {}, "reply"), replyOf(node));
    row.body.replaceChildren(...[
      h("p", { class: "soft facts" }, factsOf(node)),
      ...(node.kind === "call" || !row.children ? messages.map(({ role, text }) => h("div", { class: "message" }, h("h5", {}, role), h("pre", {}, text))) : []),
      node.reasoning ? h("details", { class: "message" }, h("summary", {}, "reasoning"), h("pre", {}, node.reasoning)) : null,
      node.kind === "call" || node.text ? reply : null,
    ].filter(Boolean));
  }
}

function replyOf(node) {
  if (node.error) return h("p", { class: "bad" }, node.error);
  if (node.cancelled) return h("p", { class: "soft" }, "Stopped: its answer was no longer wanted.");
  if (node.end === null) return h("p", { class: "soft" }, "Not there yet.");
  const box = h("div", {}, h("pre", {}, node.text));
  api.render(node.text).then((html) => setRendered(box, html), () => { /* it stays as plain text */ });
  return box;
}

function labelOf(node) {
  if (node.candidate && node.draw.length) return `Draw ${node.draw.at(-1) + 1}`;
  return node.kind === "call" ? `Call ${node.number}` : node.name.replace(/\(.*/s, "").replaceAll("_", " ");
}

function gistOf(node) {
  if (node.error) return short(node.error, 80);
  if (node.cancelled) return "stopped";
  if (node.end === null) return node.kind === "call" ? "…" : "";
  if (node.kind !== "call") return short(node.short ?? "", 60);
  return node.short && node.candidate ? short(node.short, 60) : short(node.text ?? "", 90);
}

function factsOf(node) {
  const facts = [node.name];
  if (node.usage) facts.push(`${plural(node.usage.prompt_tokens ?? 0, "token")} read, ${node.usage.completion_tokens ?? 0} written`);
  if (node.cached) facts.push("from the cache, for nothing");
  if (node.finish_reason && node.finish_reason !== "stop") facts.push(node.finish_reason === "length" ? "cut off at the token limit" : node.finish_reason);
  if (node.end !== null) facts.push(`from ${seconds(node.at)} to ${seconds(node.end)}`);
  return facts.join(" · ");
}
