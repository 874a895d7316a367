// Taking a configuration elsewhere: as curl, as Python, as a table of shoal.toml, as JSON.

import { copy, dialog, h } from "./dom.js";

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const base = () => `${location.origin}/v1`;

export function asCurl(asked, needsKey) {
  const key = needsKey ? ' \\\n  -H "authorization: Bearer $SHOAL_KEY"' : "";
  return `curl ${base()}/chat/completions${key} \\\n  -H 'content-type: application/json' \\\n  -d ${shell(JSON.stringify(asked, null, 2))}\n`;
}

const python = (value, indent = "    ") => JSON.stringify(value, null, 4).replaceAll("\n", `\n${indent}`);

export function asPython(asked, needsKey) {
  const { model, messages, ...sampling } = asked;
  const key = needsKey ? 'os.environ["SHOAL_KEY"]' : '"none"';
  const lines = Object.entries({ model, messages, ...sampling }).map(([name, value]) => `    ${name}=${python(value)},`);
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(base())}, api_key=${key})\n`
    + `completion = client.chat.completions.create(\n${lines.join("\n")}\n)\nprint(completion.choices[0].message.content)\n`;
}

/** Strings, numbers and lists of TOML are JSON's, but for one character. */
const toml = (value) => JSON.stringify(value).replaceAll("\u007f", "\\u007f");

export function asToml(name, asked) {
  const system = asked.messages.find(({ role }) => role === "system")?.content;
  const { model, messages: _, ...sampling } = asked;
  const lines = Object.entries({ model, system, ...sampling }).filter(([, value]) => value !== undefined).map(([key, value]) => `${key} = ${toml(value)}`);
  return `[presets.${/^[\w-]+$/.test(name) ? name : JSON.stringify(name)}]\n${lines.join("\n")}\n`;
}

/** Show the exports of one column, whose model is `spec`; `result` is that of its last run, or null. */
export function openExport(title, asked, spec, result, needsKey, name) {
  const forms = [["curl", asCurl(asked, needsKey)], ["Python", asPython(asked, needsKey)], ["shoal.toml", asToml(name, { ...asked, model: spec })]];
  forms.push(["JSON", JSON.stringify(result ?? { request: asked }, null, 2)]);
  const text = h("pre", { class: "export", tabindex: "0" });
  let current = forms[0];
  const tabs = forms.map((form) => h("button", { type: "button", role: "tab", autofocus: form === forms[0], onclick: () => choose(form) }, form[0]));
  function choose(form) {
    current = form;
    text.textContent = form[1];
    tabs.forEach((tab, i) => { tab.setAttribute("aria-selected", String(forms[i] === form)); tab.tabIndex = forms[i] === form ? 0 : -1; });
  }
  const list = h("div", { class: "tabs", role: "tablist", "aria-label": "Form", onkeydown: (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = (forms.indexOf(current) + step + forms.length) % forms.length;
    choose(forms[next]);
    tabs[next].focus();
  } }, tabs);
  choose(current);
  dialog(title, [list, text, h("div", { class: "dialog-foot" }, result ? null : h("span", { class: "soft" }, "JSON holds the whole result after a run."), h("span", { class: "spacer" }),
    h("button", { type: "button", class: "primary", onclick: () => copy(current[1], current[0]) }, "Copy"))], { kind: "wide" });
}
