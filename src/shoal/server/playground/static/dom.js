// Elements from JavaScript. Text always goes in as text; `setRendered` is the one place where HTML does.

export const $ = (id) => document.getElementById(id);

/** An element: `h("p", { class: "note", onclick: f }, "text", child)`. Children that are null or false are left out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name === "class" ? "class" : name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Put HTML that the server made from a model's text, and made harmless, into an element. */
export function setRendered(element, html) {
  element.innerHTML = html;
  element.classList.add("prose");
}

/** Text in which `names` are set as code. */
export function withCode(text) {
  return text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));
}

let toastTimer = 0;
/** A word on what was done, gone after a moment. */
export function toast(text) {
  const box = $("toast");
  box.textContent = text;
  box.classList.add("shown");
  $("status").textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => box.classList.remove("shown"), 2200);
}

export const say = (text) => { $("status").textContent = text; };

/** Copy a text; where the browser does not allow it, show it for copying by hand. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
  } catch {
    const field = h("textarea", { rows: 8, readonly: true, "aria-label": what, value: text });
    dialog(what, [h("p", { class: "soft" }, "The browser does not let this page copy by itself. Copy it from here:"), field]);
    field.select();
  }
}

/** A dialog that goes away when it is closed. Escape and a click outside close it. */
export function dialog(title, content, { kind = "", onclose = () => {} } = {}) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const close = h("button", { type: "button", class: "quiet icon", "aria-label": "Close", onclick: () => box.close() }, "×");
  const box = h("dialog", { class: kind, "aria-labelledby": "dialog-title" }, h("div", { class: "dialog-head" }, heading, close), ...content);
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  box.addEventListener("close", () => { box.remove(); onclose(); });
  document.body.append(box);
  box.showModal();
  return box;
}

/** A button that opens a menu of `[label, action]`; arrows move in it, Escape and a click elsewhere close it. */
export function menu(label, items) {
  const list = h("div", { class: "menu", role: "menu", hidden: true });
  const button = h("button", { type: "button", class: "quiet icon", "aria-label": label, "aria-haspopup": "menu", "aria-expanded": "false" }, "⋯");
  const root = h("div", { class: "menu-root" }, button, list);
  const outside = (event) => { if (!root.contains(event.target)) close(false); };
  function close(refocus = true) {
    list.hidden = true;
    button.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", outside);
    if (refocus) button.focus();
  }
  function open() {
    list.replaceChildren(...items().map(([text, action]) =>
      h("button", { type: "button", role: "menuitem", tabindex: "-1", onclick: () => { close(); action(); } }, text)));
    list.hidden = false;
    button.setAttribute("aria-expanded", "true");
    document.addEventListener("pointerdown", outside);
    list.firstElementChild.focus();
  }
  button.addEventListener("click", () => (list.hidden ? open() : close()));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const entries = [...list.children];
    if (step) entries[(entries.indexOf(document.activeElement) + step + entries.length) % entries.length].focus();
    else if (event.key === "Escape" || event.key === "Tab") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return root;
}
