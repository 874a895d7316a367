// What the page asks of its server. The key, where one is needed, lives as long as the tab does.

const KEY = "shoal.key";

export const key = {
  get: () => { try { return sessionStorage.getItem(KEY) ?? ""; } catch { return ""; } },
  set: (value) => { try { sessionStorage.setItem(KEY, value); } catch { /* it has to be given again */ } },
};

/** A refusal or a broken connection, in words: `meaning`, `message` (what exactly was said) and `advice`. */
export class Failure extends Error {
  constructor({ meaning, message = "", advice = "", status = 0 }) {
    super(meaning);
    Object.assign(this, { meaning, detail: message, advice, status });
  }
}

const MEANING = {
  401: ["This server asks for a key", "Enter the key you were given."],
  403: ["This is not allowed with your key", "Choose another model or technique, or ask for a key that covers it."],
  404: ["There is no such model here", "Choose one from the list."],
  413: ["The text is too long for this server", "Shorten it."],
  429: ["The limit for now is reached", "Use smaller options, or wait a minute and run again."],
};

async function failure(response) {
  let message = "";
  try { message = (await response.json()).error.message; } catch { /* no words of the server's */ }
  const [meaning, advice] = MEANING[response.status] ??
    (response.status < 500 ? ["These settings do not work", "Change what is named and run again."]
      : ["The server has a problem", "Run again; if it keeps failing, its log says more."]);
  return new Failure({ meaning, message, advice, status: response.status });
}

async function ask(path, body, signal) {
  const headers = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    const options = { method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store" };
    response = await fetch(`/playground/api/${path}`, { ...options, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({ meaning: "The server cannot be reached", advice: "Check that `shoal serve` is still running, then run again." });
  }
  if (!response.ok) throw await failure(response);
  return response;
}

export const catalogue = async () => (await ask("catalogue")).json();
export const estimate = async (model, signal) => (await ask("estimate", { model }, signal)).json();
export const render = async (text) => (await (await ask("render", { text })).json()).html;

/** Run a question; `each` is called with the events of one message, as they come. Rejects with a Failure, or AbortError where it was cancelled. */
export async function run(question, signal, each) {
  const response = await ask("run", question, signal);
  let ended = false;
  for await (const data of events(response.body)) {
    const batch = JSON.parse(data);
    ended ||= batch.some(({ event }) => event === "answer" || event === "failed");
    each(batch);
  }
  if (!ended) throw new Failure({ meaning: "The connection broke before the answer was there", advice: "Run again." });
}

/** The data of each server-sent event. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) if (block.startsWith("data: ")) yield block.slice(6);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({ meaning: "The connection to the server broke", advice: "Check that it is still running, then run again." });
  }
}
