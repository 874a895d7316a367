// One column's result, live and afterwards: figures, answer, votes, calls.

import { CallsView } from "./calls_view.js";
import { copy, h, setRendered } from "./dom.js";
import { count, money, plural, seconds, short } from "./words.js";

const PATIENCE = 1; // seconds without a reply after which a word is due
const LONG = 760; // pixels of an answer beyond which it is cut, with a button for all of it
const MOST_LINKS = 100; // draws that a vote leads to; the others stand among the calls

export class RunView {
  constructor(run, { cancel, again }) {
    this.run = run;
    this.figures = h("dl", { class: "figures" });
    this.cancelButton = h("button", { type: "button", class: "small", onclick: cancel }, "Cancel");
    this.again = again;
    this.lead = h("p", { class: "lead", hidden: true });
    this.answer = h("div", { class: "answer" });
    this.others = h("div", {});
    this.votes = h("section", { class: "votes", hidden: true });
    this.calls = new CallsView(run);
    this.element = h("div", { class: "result" },
      h("div", { class: "figures-row" }, this.figures, this.cancelButton), this.lead, this.answer, this.others, this.votes, this.calls.element);
    this.openVotes = new Set();
    this.patience = h("p", { class: "soft early" }, "Waiting for the first reply. A model that runs on the server itself is loaded with its first question, which can take a while.");
    this.drawAnswer();
  }

  update(nodes) {
    this.calls.update(nodes);
    if (nodes.some((node) => node.candidate)) this.drawVotes();
    if (this.run.status === "running") this.drawStreaming();
    else this.finish();
  }

  finish() {
    this.calls.finish();
    this.cancelButton.hidden = true;
    this.element.classList.add(this.run.status);
    this.drawAnswer();
    this.drawVotes();
    this.tick();
  }

  tick() {
    const { run } = this;
    this.calls.tick();
    const started = run.calls;
    this.patience.classList.toggle("early", run.seconds < PATIENCE);
    this.patience.hidden = run.finishedCalls.length > 0;
    const done = run.finishedCalls.length;
    const entries = [
      ["Calls", run.status === "running" && started ? `${done}/${started}` : count(done)],
      ["Tokens", count(run.tokens)],
      ["Time", seconds(run.seconds)],
      ...(run.cost === null ? [] : [["Cost", money(run.cost)]]),
    ];
    this.figures.replaceChildren(...entries.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  drawStreaming() {
    if (this.run.text || this.run.reasoning) {
      this.streamed ??= h("pre", { class: "streaming" });
      if (!this.streamed.isConnected) this.answer.replaceChildren(this.streamed);
      const text = this.run.text || this.run.reasoning;
      this.streamed.classList.toggle("thinking", !this.run.text);
      const fresh = text.slice(this.streamed.textContent.length);
      if (text.startsWith(this.streamed.textContent)) this.streamed.append(fresh);
      else this.streamed.textContent = text;
      this.streamed.scrollTop = this.streamed.scrollHeight;
    }
  }

  drawAnswer() {
    const { answer, failure, status } = this.run;
    const partial = this.run.text ? h("div", {}, h("p", { class: "note" }, "What had come in by then:"), h("pre", { class: "partial" }, this.run.text)) : "";
    const { length: finished } = this.run.finishedCalls;
    if (failure) this.answer.replaceChildren(failureBox(failure, this.again), partial);
    else if (status === "cancelled") this.answer.replaceChildren(h("p", { class: "note" }, finished ? `Cancelled after ${plural(finished, "call")}.` : "Cancelled."), partial);
    else if (answer) this.drawFinal(answer);
    else this.answer.replaceChildren(h("div", { class: "waiting" }, h("i", {}), h("i", {}), h("i", {}), this.patience));
  }

  drawFinal(answer) {
    const brief = answer.short && answer.short.trim() !== answer.text.trim();
    this.lead.hidden = !brief;
    if (brief) {
      this.lead.replaceChildren(h("span", { class: "lead-label" }, "Answer"), h("strong", {}, short(answer.short, 300)),
        answer.confidence === null ? "" : h("span", { class: "soft" }, ` ${Math.round(100 * answer.confidence)} % sure`));
    }
    const text = h("div", {});
    if (answer.text) setRendered(text, answer.html);
    else text.append(h("p", { class: "note" }, "The reply was empty."));
    const all = h("button", { type: "button", class: "quiet small", hidden: true, onclick: () => { text.classList.remove("cut"); all.remove(); } }, "Show all of it");
    this.answer.replaceChildren(...[
      answer.reasoning ? h("details", { class: "more" }, h("summary", {}, "Reasoning"), h("pre", {}, answer.reasoning)) : null,
      text, all,
      answer.finish_reason === "length" ? h("p", { class: "note" }, "Cut off: the reply reached the most tokens it may have.") : null,
      answer.text ? h("button", { type: "button", class: "quiet small", onclick: () => copy(answer.text, "Answer") }, "Copy answer") : null,
    ].filter(Boolean));
    all.hidden = text.scrollHeight <= LONG;
    text.classList.toggle("cut", !all.hidden);
    this.others.replaceChildren(...(answer.alternatives.length ? [h("details", { class: "more" }, h("summary", {}, plural(answer.alternatives.length, "further answer")),
      answer.alternatives.map(({ text: other }) => h("pre", { class: "alternative" }, other)))] : []));
  }

  /** What the draws came to, the most frequent first. */
  drawVotes() {
    const groups = this.run.votes;
    const cast = groups.reduce((sum, { nodes }) => sum + nodes.length, 0);
    this.votes.hidden = cast < 2;
    if (cast < 2) return;
    const expected = [...this.run.nodes.values()].filter(({ candidate }) => candidate).length;
    const winner = this.run.answer?.form;
    this.votes.replaceChildren(h("h4", {}, "Votes ", h("span", { class: "soft" }, this.run.status === "running" ? `${cast} of ${expected} in` : `${cast}`)),
      ...groups.map((group) => this.voteGroup(group, cast, winner)));
  }

  voteGroup(group, cast, winner) {
    const name = group.short ?? "no clear answer";
    const bar = h("i", {});
    bar.style.width = `${(100 * group.nodes.length) / cast}%`;
    const won = group.form !== null && group.form === winner;
    const draws = h("p", { class: "vote-draws" });
    const fill = () => { if (details.open && !draws.childElementCount) draws.append(...this.drawsOf(group.nodes)); };
    const details = h("details", { class: `vote ${won ? "won" : ""} ${group.form === null ? "none" : ""}`, open: this.openVotes.has(group.form),
      ontoggle: () => { this.openVotes[details.open ? "add" : "delete"](group.form); fill(); } },
    h("summary", {}, h("span", { class: "vote-name" }, short(name, 80), won ? h("span", { class: "sr" }, ", the answer") : null), h("span", { class: "meter", "aria-hidden": "true" }, bar),
      h("span", { class: "vote-count" }, String(group.nodes.length))),
    draws);
    fill();
    return details;
  }

  drawsOf(nodes) {
    const links = nodes.slice(0, MOST_LINKS).map((node) => h("button", { type: "button", class: "link", onclick: () => this.calls.show(node) },
      node.draw.length ? `Draw ${node.draw.at(-1) + 1}` : `Call ${node.number}`));
    return nodes.length > MOST_LINKS ? [...links, h("span", { class: "soft" }, `and ${count(nodes.length - MOST_LINKS)} more among the calls`)] : links;
  }
}

function failureBox({ meaning, message, advice }, again) {
  return h("div", { class: "failure", role: "alert" }, h("h4", {}, meaning), advice ? h("p", {}, advice) : null,
    message ? h("p", { class: "exactly" }, message) : null,
    h("button", { type: "button", class: "small", onclick: again }, "Run again"));
}
