// From a form to the spec of a model, `technique(option=value)@model`. The way back is the server's: it owns the grammar.

/** The spec of `{ stages: [{ technique, options }], base }`; options that are as they are anyway are left out. */
export function specOf(form, techniques) {
  return [...form.stages.map((stage) => written(stage, techniques)), form.base].join("@");
}

function written(stage, techniques) {
  const known = techniques.find((technique) => technique.slug === stage.technique)?.options ?? [];
  const given = known
    .filter(({ name, default: usual }) => stage.options[name] !== undefined && stage.options[name] !== usual)
    .map((option) => `${option.name}=${value(option, stage.options[option.name])}`);
  return given.length ? `${stage.technique}(${given.join(", ")})` : stage.technique;
}

function value(option, given) {
  if (given === null) return "none";
  if (option.type === "text") return JSON.stringify(given);
  if (option.type === "models") return given.startsWith("[") ? given : `[${given}]`;
  return String(given);
}

/** A name for people: "Self consistency on Re reading", "Plain model". */
export function titleOf(form, techniques) {
  if (!form) return "Own combination";
  const names = form.stages.map((stage) => techniques.find((technique) => technique.slug === stage.technique)?.title ?? stage.technique);
  if (!names.length) return "Plain model";
  return names.join(" on ");
}
