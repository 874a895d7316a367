// One configuration: preset, model and techniques as a form, and the same as text for those who know the grammar.

import * as api from "./api.js";
import { h, menu, withCode } from "./dom.js";
import { optionForm } from "./option_form.js";
import { specOf, titleOf } from "./spec.js";
import { SAMPLING, columnOf, modelOf } from "./state.js";
import { presets } from "./store.js";
import { count, plural, range } from "./words.js";

const PAUSE = 220; // milliseconds after the last key before the server is asked

export class ConfigCard {
  /** `page` has the catalogue and what the menu does; `page.changed()` is called after each edit. */
  constructor(column, page) {
    this.column = column;
    this.page = page;
    this.form = null;
    this.error = null;
    this.estimate = null;
    this.waiting = 0;
    this.letter = h("span", { class: "letter", "aria-hidden": "true" });
    this.title = h("h3", {});
    this.line = h("code", { class: "line" });
    this.toggle = h("button", { type: "button", class: "quiet edit", "aria-expanded": "true", onclick: () => this.fold(!this.folded) }, "Done");
    this.body = h("div", { class: "config" });
    this.element = h("div", { class: "setup" },
      h("div", { class: "card-head" }, this.letter, this.title, this.toggle, menu("More", () => page.menuOf(this))),
      this.line, this.body);
    this.fold(false);
    this.build();
    this.read();
  }

  fold(folded) {
    this.folded = folded;
    this.body.hidden = folded;
    this.line.hidden = !folded;
    this.toggle.hidden = !this.page.hasResult(this);
    this.toggle.textContent = folded ? "Edit" : "Done";
    this.toggle.setAttribute("aria-expanded", String(!folded));
  }

  place(letter) {
    this.letter.textContent = letter;
    this.element.parentElement?.setAttribute("aria-label", `Configuration ${letter}`);
  }

  get name() {
    return this.column.preset || titleOf(this.form, this.page.catalogue.techniques);
  }

  get model() {
    return modelOf(this.column, this.page.catalogue.presets);
  }

  // The parts

  build() {
    const presetChoice = this.presetSelect();
    this.formBox = h("div", { class: "stages" });
    this.spec = h("input", { type: "text", class: "spec", spellcheck: "false", autocapitalize: "off", value: this.column.spec, oninput: () => this.typed() });
    this.said = h("p", { class: "estimate", "aria-live": "polite" });
    const text = h("details", { class: "as-text" }, h("summary", {}, "As text"), h("label", {}, h("span", { class: "sr" }, "Model as text"), this.spec),
      h("p", { class: "about" }, withCode("Techniques stand before the model: `a@model`. `a&b@model` runs one after another, `a|b@model` side by side.")));
    this.body.replaceChildren(...[presetChoice, this.formBox, this.ownSettings(), text, this.said].filter(Boolean));
  }

  presetSelect() {
    const shared = this.page.catalogue.presets;
    const own = presets.all();
    if (!shared.length && !own.length) return null;
    const option = (preset) => h("option", { value: preset.name, selected: preset.name === this.column.preset }, preset.name);
    const pick = (event) => this.usePreset([...own, ...shared].find((preset) => preset.name === event.target.value));
    const about = [...own, ...shared].find((preset) => preset.name === this.column.preset)?.description;
    const select = h("label", { class: "row" }, h("span", {}, "Preset"), h("select", { onchange: pick },
      this.page.catalogue.models.length ? h("option", { value: "" }, "None") : null,
      shared.length ? h("optgroup", { label: "Of this server" }, shared.map(option)) : null,
      own.length ? h("optgroup", { label: "Your own" }, own.map(option)) : null));
    return h("div", { class: "preset" }, select, about ? h("p", { class: "about" }, about) : null);
  }

  usePreset(preset) {
    if (preset) Object.assign(this.column, columnOf(preset));
    else this.column.preset = "";
    this.build();
    this.read();
    this.page.changed();
  }

  ownSettings() {
    const { own } = this.column;
    const field = (name, label, step) => h("label", {}, label, h("input", {
      type: "number", step, min: "0", value: own[name] ?? "", placeholder: "as above",
      oninput: (event) => { own[name] = event.target.value === "" ? null : Number(event.target.value); this.page.changed(); },
    }));
    const given = own.system || own.stop.length || SAMPLING.some((name) => own[name] !== null);
    return h("details", { class: "more" }, h("summary", {}, "Prompt and sampling of its own", given ? h("span", { class: "dot", title: "set" }) : null),
      h("div", { class: "fields" },
        h("label", { class: "wide" }, "System prompt", h("textarea", { rows: 2, value: own.system, placeholder: "as above",
          oninput: (event) => { own.system = event.target.value; this.page.changed(); } })),
        field("temperature", "Temperature", "0.1"), field("top_p", "Top p", "0.01"), field("max_tokens", "Most tokens", "1"), field("seed", "Seed", "1"),
        own.stop.length ? h("p", { class: "about wide" }, "Stops at ", own.stop.map((text) => h("code", {}, JSON.stringify(text))), ".") : null));
  }

  drawForm() {
    if (!this.form) {
      const known = this.page.catalogue.models.length > 0 && (this.error || this.estimate);
      this.formBox.replaceChildren(...(!known ? [] : [h("p", { class: "about" },
        this.error ? "This does not work here. Edit it as text, or " : "This combination is more than the form can show. Edit it as text, or ",
        h("button", { type: "button", class: "link", onclick: () => this.startOver() }, "start over with the form"), ".")]));
      return;
    }
    const { models } = this.page.catalogue;
    if (!models.includes(this.form.base) && this.model === this.column.preset) {
      this.formBox.replaceChildren(h("p", { class: "about" }, "Your key covers this preset as it is; its model and techniques cannot be changed."));
      return;
    }
    const bases = models.includes(this.form.base) ? models : [...models, this.form.base];
    const base = h("select", { onchange: (event) => { this.form.base = event.target.value; this.written(); } },
      bases.map((name) => h("option", { value: name, selected: name === this.form.base }, name)));
    this.formBox.replaceChildren(
      h("label", { class: "row" }, h("span", {}, "Model"), base),
      ...this.form.stages.map((stage, i) => this.stage(stage, i)),
      h("button", { type: "button", class: "quiet add-stage", onclick: () => this.addStage() },
        this.form.stages.length ? "+ Another technique around it" : "+ Add a technique"));
  }

  stage(stage, index) {
    const { techniques, models, unconfined } = this.page.catalogue;
    const technique = techniques.find(({ slug }) => slug === stage.technique);
    const change = (event) => {
      this.form.stages[index] = { technique: event.target.value, options: {} };
      this.written();
      this.drawForm();
      this.formBox.querySelectorAll(".stage select.technique")[index]?.focus();
    };
    const remove = () => { this.form.stages.splice(index, 1); this.written(); this.drawForm(); this.formBox.querySelector(".add-stage").focus(); };
    return h("fieldset", { class: "stage" },
      h("legend", { class: "sr" }, `Technique ${index + 1}`),
      h("div", { class: "row" },
        h("label", { class: "row" }, h("span", {}, "Technique"), h("select", { class: "technique", onchange: change },
          techniques.map(({ slug, title, needs_sandbox: confined }) => h("option", { value: slug, selected: slug === stage.technique, disabled: confined && Boolean(unconfined) },
          confined && unconfined ? `${title} (cannot run here)` : title)))),
        h("button", { type: "button", class: "quiet icon", "aria-label": `Remove ${technique?.title ?? stage.technique}`, onclick: remove }, "×")),
      technique ? h("p", { class: "about" }, technique.summary, technique.needs_sandbox && !unconfined ? " Runs code, in a sandbox." : "") : null,
      technique?.needs_sandbox && unconfined ? h("p", { class: "about bad" }, `This technique runs code, and this server has no sandbox for it: ${unconfined}.`) : null,
      technique ? optionForm(technique, stage, models, () => this.written()) : null);
  }

  addStage() {
    const used = new Set(this.form.stages.map(({ technique }) => technique));
    const next = this.page.catalogue.techniques.find(({ slug, needs_sandbox: confined }) => !used.has(slug) && !(confined && this.page.catalogue.unconfined)) ?? this.page.catalogue.techniques[0];
    if (!next) return;
    this.form.stages.unshift({ technique: next.slug, options: {} });
    this.written();
    this.drawForm();
    this.formBox.querySelector("select.technique").focus();
  }

  startOver() {
    this.form = { stages: [], base: this.page.catalogue.models[0] };
    this.written();
    this.drawForm();
  }

  // The two ways to write it, kept the same

  written() {
    this.column.spec = this.spec.value = specOf(this.form, this.page.catalogue.techniques);
    this.edited();
    this.read({ form: false });
  }

  typed() {
    this.column.spec = this.spec.value.trim();
    this.edited();
    this.read();
  }

  edited() {
    this.column.preset = "";
    const select = this.body.querySelector(".preset select");
    if (select) select.value = "";
    this.body.querySelector(".preset .about")?.remove();
    this.page.changed();
  }

  /** Ask the server what the spec means and costs; with `form`, the form follows it. */
  read({ form = true } = {}) {
    clearTimeout(this.waiting);
    this.asked?.abort();
    this.waiting = setTimeout(() => this.ask(form), this.estimate ? PAUSE : 0);
    this.draw();
  }

  async ask(withForm) {
    this.asked = new AbortController();
    try {
      this.estimate = await api.estimate(this.model, this.asked.signal);
      this.error = null;
      if (withForm) this.form = this.estimate.form;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.error = error;
      this.estimate = null;
      if (withForm) this.form = null;
    }
    if (withForm) this.drawForm();
    this.draw();
    this.page.estimated();
  }

  draw() {
    this.title.textContent = this.error && !this.form ? "Not a model yet" : this.name;
    this.line.textContent = this.column.spec;
    this.spec.classList.toggle("wrong", Boolean(this.error));
    this.spec.setAttribute("aria-invalid", String(Boolean(this.error)));
    if (this.error) {
      this.body.querySelector(".as-text").open ||= !this.form;
      this.said.replaceChildren(h("span", { class: "bad" }, this.error.detail || `${this.error.meaning}. ${this.error.advice ?? ""}`));
    } else if (this.estimate) {
      const { fewest, calls, critical_path: path } = this.estimate;
      const { calls: most } = this.page.catalogue.limits;
      const over = calls <= most ? null : h("span", { class: fewest > most ? "bad" : "" },
        fewest > most ? `. This server allows ${plural(most, "call")} for one question: use smaller options.` : `; this server stops at ${count(most)}`);
      this.said.replaceChildren(`${range(fewest, calls)} ${calls === 1 ? "call" : "calls"}${calls > 1 ? `, ${path === 1 ? "all at once" : `at most ${plural(path, "call")} one after another`}` : ""}`, over ?? "");
    }
  }
}
