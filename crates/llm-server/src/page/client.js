// Requests to the server, and what it sends piece by piece.

const KEY = "llm-run.key";
let key = remembered();

/** What the server said instead of an answer. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Takes the key that requests go with. It is kept as long as the tab is open. */
export function setKey(given) {
  key = given;
  try {
    sessionStorage.setItem(KEY, given);
  } catch {
    // It is asked for again after a reload.
  }
}

/** True where a key was given: one that is refused is a wrong one. */
export const hasKey = () => key !== "";

/** The response to a request; with a body it is a POST of JSON. */
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  const response = await fetch(path, {
    method: body ? "POST" : "GET",
    body: body && JSON.stringify(body),
    headers,
    signal,
    cache: "no-store",
  });
  if (response.ok) return response;
  throw new Refusal(response.status, await reason(response));
}

/** Objects of a response's server-sent events, up to its end or `[DONE]`. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        if (block === "data: [DONE]") return;
        if (block.startsWith("data: ")) yield JSON.parse(block.slice(6));
      }
    }
  } finally {
    // Whoever listens no longer lets the server know.
    reader.cancel().catch(() => {});
  }
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answers with status ${response.status}`;
  }
}

function remembered() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}
