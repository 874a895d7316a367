// One question under way at one model: what its events have told so far.

import * as api from "./api.js";

export class Run {
  /** `changed(run, nodes)` is called after each batch of events with what it touched. */
  constructor(question, prices, changed) {
    this.question = question;
    this.prices = prices;
    this.status = "running"; // then "done", "failed" or "cancelled"
    this.nodes = new Map();
    this.prompts = new Map();
    this.text = "";
    this.reasoning = "";
    this.answer = null;
    this.failure = null;
    this.critical = new Set();
    this.began = performance.now();
    this.took = null;
    this.changed = changed;
    this.stopper = new AbortController();
    this.calls = 0;
  }

  async start() {
    try {
      await api.run(this.question, this.stopper.signal, (batch) => this.told(batch));
    } catch (error) {
      if (error.name === "AbortError") this.end("cancelled");
      else this.fail(error);
    }
  }

  cancel() {
    if (this.status === "running") this.stopper.abort();
  }

  fail({ meaning, detail, advice, status }) {
    this.failure = meaning ? { meaning, message: detail, advice, status }
      : { meaning: "The page could not read the reply", message: "", advice: "Reload the page and run again." };
    this.end("failed");
  }

  end(status) {
    this.status = status;
    this.took ??= this.seconds;
    for (const node of this.nodes.values()) if (node.end === null) Object.assign(node, { end: this.took, cancelled: true });
    this.changed(this, [...this.nodes.values()]);
  }

  get seconds() {
    return this.took ?? (performance.now() - this.began) / 1000;
  }

  /** Thousands of calls come in few batches: what is drawn is drawn once a batch. */
  told(batch) {
    const nodes = new Set();
    for (const event of batch) {
      const node = this.happened(event);
      if (node) nodes.add(node);
    }
    if (this.status === "running") this.changed(this, [...nodes]);
  }

  /** The node that an event touched, if any. */
  happened(event) {
    if (event.event === "prompt") this.prompts.set(event.prompt, event.messages);
    else if (event.event === "started") return this.started(event);
    else if (event.event === "finished") return this.finished(event);
    else if (event.event === "delta") { this.text += event.text; this.reasoning += event.reasoning; }
    else if (event.event === "answer") this.answered(event);
    else if (event.event === "failed") { this.failure = event; this.end("failed"); }
    return null;
  }

  started(event) {
    const node = { ...event, end: null, parentNode: this.nodes.get(event.parent) ?? null };
    if (node.kind === "call") node.number = ++this.calls;
    this.nodes.set(node.id, node);
    return node;
  }

  finished(event) {
    const node = this.nodes.get(event.id);
    if (!node) return null;
    const { at, event: _, ...rest } = event;
    return Object.assign(node, rest, { end: at });
  }

  answered(event) {
    this.answer = event;
    this.critical = new Set(event.critical_path);
    this.took = event.seconds;
    this.end("done");
  }

  get finishedCalls() {
    return [...this.nodes.values()].filter((node) => node.kind === "call" && node.end !== null && !node.cancelled);
  }

  get tokens() {
    return this.finishedCalls.reduce((sum, { usage }) => sum + (usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0), 0);
  }

  /** Dollars; null where some model that was asked has no price. */
  get cost() {
    let dollars = 0;
    for (const { name, usage } of this.finishedCalls) {
      const price = this.prices[name];
      if (!price) return null;
      dollars += ((usage?.prompt_tokens ?? 0) * price.input + (usage?.completion_tokens ?? 0) * price.output) / 1e6;
    }
    return this.finishedCalls.length ? dollars : null;
  }

  /** The answers to the question itself, by what they come to; those most agree on first. */
  get votes() {
    const groups = new Map();
    for (const node of this.nodes.values()) {
      if (!node.candidate || node.end === null || node.cancelled || node.error) continue;
      const group = groups.get(node.form) ?? { form: node.form, short: node.short, nodes: [] };
      group.nodes.push(node);
      groups.set(node.form, group);
    }
    return [...groups.values()].sort((a, b) => (a.form === null) - (b.form === null) || b.nodes.length - a.nodes.length);
  }

  /** What the exports and the history keep. */
  get result() {
    const { answer, failure, status, question } = this;
    return {
      request: question, status, answer, failure, seconds: this.seconds, tokens: this.tokens, cost: this.cost, calls: this.finishedCalls.length,
      prompts: Object.fromEntries(this.prompts),
      tree: [...this.nodes.values()].map(({ parentNode, ...node }) => node),
    };
  }
}
