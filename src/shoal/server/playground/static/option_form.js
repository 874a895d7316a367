// The fields of one technique, made from its signature.

import { h, withCode } from "./dom.js";

let fields = 0;

/** Fields for a stage `{ technique, options }`; `changed` is called after each edit. The first few stand open. */
export function optionForm(technique, stage, models, changed) {
  const set = (option, value) => {
    if (value === option.default || value === undefined) delete stage.options[option.name];
    else stage.options[option.name] = value;
    changed();
  };
  const isFirst = (option) => option.main;
  const first = technique.options.filter(isFirst);
  const rest = technique.options.filter((option) => !first.includes(option));
  const field = (option) => optionField(option, stage.options[option.name] ?? option.default, models, (value) => set(option, value));
  const chosen = rest.filter(({ name }) => stage.options[name] !== undefined).length;
  return h("div", { class: "options" },
    first.length ? h("div", { class: "fields" }, first.map(field)) : null,
    rest.length ? h("details", { class: "more", open: chosen > 0 },
      h("summary", {}, first.length ? "More options" : "Options"), h("div", { class: "fields" }, rest.map(field))) : null);
}

function optionField(option, value, models, set) {
  const id = `field-${++fields}`;
  const about = option.about ? h("p", { class: "about", id: `${id}-about` }, withCode(option.about)) : null;
  const input = INPUTS[option.type](option, value, models, set);
  input.id = id;
  if (about) input.setAttribute("aria-describedby", about.id);
  const label = h("label", { for: id }, option.name.replaceAll("_", " "));
  return h("div", { class: `field ${option.type}` }, label, input, about ? hint(about, option.name) : null);
}

/** What the docstring says of an option, behind a small button. */
function hint(about, name) {
  about.hidden = true;
  const button = h("button", {
    type: "button", class: "hint", "aria-label": `What is ${name.replaceAll("_", " ")}?`, "aria-expanded": "false",
    onclick: () => { about.hidden = !about.hidden; button.setAttribute("aria-expanded", String(!about.hidden)); },
  }, "?");
  return [button, about];
}

const asNumber = (text, whole) => {
  const number = Number(text);
  return text.trim() === "" || !Number.isFinite(number) ? undefined : whole ? Math.round(number) : number;
};

function number(whole) {
  return (option, value, _, set) => h("input", {
    type: "number", step: whole ? "1" : "any", min: whole ? "0" : null, inputmode: whole ? "numeric" : "decimal",
    value: value ?? "", placeholder: option.optional ? "none" : String(option.default),
    oninput: (event) => set(asNumber(event.target.value, whole)),
  });
}

function select(entries, value, set) {
  const known = entries.some(([key]) => key === value);
  const all = known ? entries : [...entries, [value, value]];
  return h("select", { onchange: (event) => set(all[event.target.selectedIndex][0]) },
    all.map(([key, label]) => h("option", { selected: key === value }, label)));
}

const INPUTS = {
  integer: number(true),
  number: number(false),
  switch: (_, value, __, set) => h("input", { type: "checkbox", role: "switch", checked: value, onchange: (event) => set(event.target.checked) }),
  choice: (option, value, _, set) => select([...(option.optional ? [[null, "none"]] : []), ...option.choices.map((choice) => [choice, choice])], value, set),
  text: (option, value, _, set) => h("input", { type: "text", value: value ?? "", placeholder: "none", oninput: (event) => set(event.target.value || undefined) }),
  model: (_, value, models, set) => select([[null, "same model"], ...models.map((model) => [model, model])], value, set),
  models: (_, value, models, set) => {
    const chosen = new Set((value ?? "").replace(/^\[|\]$/g, "").split(",").map((name) => name.trim()).filter(Boolean));
    const update = (name, on) => { chosen[on ? "add" : "delete"](name); set(chosen.size ? `[${[...chosen].join(", ")}]` : undefined); };
    return h("div", { class: "checks", role: "group" }, models.map((name) =>
      h("label", {}, h("input", { type: "checkbox", checked: chosen.has(name), onchange: (event) => update(name, event.target.checked) }), name)));
  },
};
