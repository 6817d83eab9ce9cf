// The page of `llm-run serve`: a conversation with its model.

import { Refusal, ask, events, hasKey, setKey } from "./client.js";
import { show } from "./panel.js";
import { copyButton, render } from "./text.js";

const element = (id) => document.getElementById(id);
const [log, list, input, send, stop] = ["log", "messages", "input", "send", "stop"].map(element);
const settings = element("settings");
const FIELDS = ["system", "temperature", "top_p", "max_tokens", "seed"];

const KEPT = "llm-run.conversation";
/** Messages as the API has them, the model's with what is noted beneath; and settings as they were typed. */
const kept = remembered();
/** The server's last state, once it is known. */
let server = null;
/** What ends the answer that is being made. */
let running = null;

const isText = () => document.body.dataset.form === "text";

// --- The conversation

/** Has the conversation go on with what was typed. */
function say() {
  if (running || send.disabled || !settingsAreFine()) return;
  const content = isText() ? input.value : input.value.trim();
  // A text goes on without anything new, too.
  if (!content && !(isText() && kept.messages.length)) return;
  if (content) kept.messages.push({ role: "user", content });
  input.value = "";
  fit();
  answer();
}

/** Has the last answer made anew, or one that failed. */
function regenerate() {
  if (running || send.disabled || !settingsAreFine()) return;
  if (kept.messages.at(-1)?.role === "assistant") kept.messages.pop();
  answer();
}

function begin() {
  running?.abort();
  kept.messages = [];
  trouble(null);
  save();
  draw();
  toInput();
}

/** Streams an answer to what was said so far. */
async function answer() {
  const request = requestOf(kept.messages);
  const message = { role: "assistant", content: "", note: "" };
  const mine = (running = new AbortController());
  kept.messages.push(message);
  trouble(null);
  save();
  draw();
  log.scrollTop = log.scrollHeight;
  announce("The answer is being written.");
  const time = { first: 0, last: 0 };
  let [usage, end, failed] = [null, null, null];
  try {
    const response = await ask(request.path, { body: request.body, signal: mine.signal });
    for await (const part of events(response)) {
      if (part.error) throw new Error(part.error.message);
      usage = part.usage ?? usage;
      const choice = part.choices[0];
      end = choice?.finish_reason ?? end;
      const text = choice?.delta?.content ?? choice?.text;
      if (!text) continue;
      time.last = performance.now();
      time.first ||= time.last;
      message.content += text;
      drawSoon();
    }
    if (!end) throw new Error("the answer breaks off");
  } catch (error) {
    if (!mine.signal.aborted) failed = error;
  }
  message.note = noteOf({ usage, end, time, isStopped: mine.signal.aborted });
  // What failed before its first word is no answer.
  if (failed && !message.content) kept.messages = kept.messages.filter((other) => other !== message);
  running = null;
  save();
  draw();
  if (failed) fail(failed);
  else announce(mine.signal.aborted ? "Stopped." : message.content || "The answer is empty.");
}

/** The request that `messages` and settings make. */
function requestOf(messages) {
  const { system, temperature, top_p, max_tokens, seed } = kept.settings;
  const body = { stream: true, stream_options: { include_usage: true } };
  for (const [name, value] of Object.entries({ temperature, top_p, max_tokens, seed })) {
    if (value) body[name] = Number(value);
  }
  if (isText()) {
    // The API makes 16 tokens where nothing is said: too few to read.
    body.max_tokens ??= 256;
    const prompt = messages.map(({ content }) => content).join("");
    return { path: "/v1/completions", body: { ...body, prompt } };
  }
  // One that was stopped before its first word says nothing.
  const said = messages.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
  if (system?.trim()) said.unshift({ role: "system", content: system.trim() });
  return { path: "/v1/chat/completions", body: { ...body, messages: said } };
}

/** `42 tokens · 35.1 tokens/s`. */
function noteOf({ usage, end, time, isStopped }) {
  const n = usage?.completion_tokens;
  const seconds = (time.last - time.first) / 1000;
  const parts = [];
  if (n) parts.push(n === 1 ? "1 token" : `${n} tokens`);
  // The first one took the prompt, too. What came all at once was faster than can be told.
  if (n > 1 && seconds > 0.05) parts.push(`${((n - 1) / seconds).toFixed(1)} tokens/s`);
  if (isStopped) parts.push("stopped");
  else if (end === "length") parts.push("ended at the limit of tokens");
  return parts.join(" · ");
}

/** Says what went wrong, and lets it be tried again. */
function fail(error) {
  const isNetwork = error instanceof TypeError;
  trouble(isNetwork ? "The server cannot be reached." : sentence(error.message));
}

function trouble(text) {
  element("trouble").hidden = text === null;
  element("trouble-said").textContent = text ?? "";
  if (text !== null) log.scrollTop = log.scrollHeight;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/** Says something to who listens to the page: an answer once, and not token by token. */
function announce(text) {
  element("said").textContent = text;
}

// --- Drawing

let isDrawing = false;

/** Draws what has come with the next picture: tokens come faster than eyes see. */
function drawSoon() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    draw();
  });
}

function draw() {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 48;
  const { messages } = kept;
  messages.forEach((message, i) => {
    if (list.children[i]?.message !== message) {
      const node = messageNode(message);
      if (list.children[i]) list.children[i].replaceWith(node);
      else list.append(node);
    }
    drawMessage(list.children[i], message, i === messages.length - 1);
  });
  while (list.children.length > messages.length) list.lastChild.remove();
  const isReady = server?.state === "ready";
  element("empty").hidden = messages.length > 0 || !isReady;
  send.hidden = Boolean(running);
  stop.hidden = !running;
  send.disabled = !isReady;
  send.textContent = !isText() ? "Send" : messages.length ? "Continue" : "Begin";
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function messageNode(message) {
  const node = document.createElement("li");
  node.message = message;
  node.className = `message ${message.role}`;
  const who = document.createElement("h3");
  who.className = "unseen";
  who.textContent = message.role === "user" ? "You" : "Model";
  const text = document.createElement("div");
  text.className = "text";
  node.append(who, text);
  if (message.role === "assistant") {
    const footer = document.createElement("footer");
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = "Regenerate";
    again.addEventListener("click", regenerate);
    footer.append(copyButton(() => message.content), again, document.createElement("span"));
    node.append(footer);
  }
  return node;
}

function drawMessage(node, message, isLast) {
  const isMade = isLast && running !== null && message.role === "assistant";
  render(node.children[1], message.content, isText() || message.role === "user");
  node.classList.toggle("waits", isMade && !message.content);
  node.setAttribute("aria-busy", isMade);
  const footer = node.children[2];
  if (!footer) return;
  // In a text only its end has something beneath it.
  footer.hidden = isMade || (isText() && !isLast);
  footer.children[1].hidden = !isLast;
  footer.children[2].textContent = message.note;
}

/** Has what is typed next go to the field, unless that brings up a keyboard over half of the page. */
function toInput() {
  if (!matchMedia("(pointer: coarse)").matches) input.focus();
}

/** Makes the field as high as what is typed. */
function fit() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

// --- What is kept

function remembered() {
  try {
    const { messages, settings } = JSON.parse(localStorage.getItem(KEPT));
    return { messages: messages.filter(({ role, content }) => role && typeof content === "string"), settings: settings ?? {} };
  } catch {
    // Nothing was kept, or not by this page.
    return { messages: [], settings: {} };
  }
}

function save() {
  try {
    localStorage.setItem(KEPT, JSON.stringify(kept));
  } catch {
    // The browser keeps nothing, or no more: the conversation goes on without it.
  }
}

function settingsAreFine() {
  if (settings.checkValidity()) return true;
  openPanel(true);
  settings.reportValidity();
  return false;
}

// --- The server's state

/** Listens to the server as long as the page is seen: browsers have only few connections to a server. */
async function listen() {
  for (;;) {
    if (document.hidden) await once(document, "visibilitychange");
    const hiding = new AbortController();
    const hide = () => document.hidden && hiding.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      const response = await ask("/status/events", { signal: hiding.signal });
      closeDoor();
      for await (const state of events(response)) showState(state);
      if (!hiding.signal.aborted) showState(null, "not reachable");
    } catch (error) {
      if (error instanceof Refusal && error.status === 401) {
        showState(null, "key needed");
        await askForKey();
        continue;
      }
      if (!hiding.signal.aborted) showState(null, error instanceof Refusal ? error.message : "not reachable");
    } finally {
      document.removeEventListener("visibilitychange", hide);
    }
    if (!hiding.signal.aborted) await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function showState(state, said = state.state) {
  server = state;
  const label = element("state");
  label.dataset.state = state?.state ?? "none";
  // Setting it anew would have it read out anew.
  if (label.textContent !== said) label.textContent = said;
  element("loading").hidden = !state?.loading;
  if (state) show(state);
  if (state?.state === "failed") trouble(sentence(state.message));
  if (state?.model) showModel(state.model);
  draw();
}

function showModel({ name, has_chat_template }) {
  const form = has_chat_template ? "chat" : "text";
  document.body.dataset.form = form;
  if (document.title === `${name} – llm-run`) return;
  document.title = `${name} – llm-run`;
  element("name").textContent = name;
  element("name").title = name;
  element("system-row").hidden = form === "text";
  element("max_tokens").placeholder = form === "text" ? "256" : "no limit";
  element("empty-title").textContent = form === "text" ? "Begin a text" : `Talk with ${name}`;
  element("empty-said").textContent =
    form === "text"
      ? "This model has no chat template: it continues what you write."
      : "Nothing leaves the machine that the model runs on.";
  const label = form === "text" ? "Text to continue" : "Message";
  element("input-label").textContent = label;
  input.placeholder = label;
}

// --- The key

let enter = null;

/** Waits for a key. */
function askForKey() {
  const door = element("door");
  const isWrong = hasKey();
  door.toggleAttribute("data-is-wrong", isWrong);
  if (isWrong) element("door-said").textContent = "The server does not know this key.";
  element("key").setAttribute("aria-invalid", isWrong);
  door.hidden = false;
  element("key").focus();
  return new Promise((resolve) => (enter = resolve));
}

function closeDoor() {
  const door = element("door");
  if (door.hidden) return;
  door.hidden = true;
  toInput();
}

element("door").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(element("key").value.trim());
  element("key").value = "";
  enter?.();
});

// --- Controls

const isWide = matchMedia("(min-width: 60rem)");

function openPanel(isOpen) {
  element("panel").hidden = !isOpen;
  element("toggle").setAttribute("aria-expanded", isOpen);
}

function once(target, name) {
  return new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));
}

element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  say();
});

input.addEventListener("input", fit);
input.addEventListener("keydown", (event) => {
  // While a word is being composed, Enter ends the word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  say();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) running.abort();
  else if (!isWide.matches && !element("panel").hidden) {
    openPanel(false);
    element("toggle").focus();
  }
});

stop.addEventListener("click", () => {
  running?.abort();
  toInput();
});
element("new").addEventListener("click", begin);
element("again").addEventListener("click", regenerate);
element("toggle").addEventListener("click", () => openPanel(element("panel").hidden));
isWide.addEventListener("change", () => openPanel(isWide.matches));

settings.addEventListener("submit", (event) => event.preventDefault());
settings.addEventListener("input", () => {
  for (const name of FIELDS) kept.settings[name] = element(name).value;
  save();
});
// An answer that is being made is kept as far as it is.
addEventListener("pagehide", save);

for (const name of FIELDS) element(name).value = kept.settings[name] ?? "";
openPanel(isWide.matches);
draw();
log.scrollTop = log.scrollHeight;
toInput();
listen();
