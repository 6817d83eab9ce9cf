// What the server is at: loading, memory, work.

const element = (id) => document.getElementById(id);

/** Shows a state of the server. */
export function show(state) {
  const { model, memory, engine, loading } = state;
  element("version").textContent = `llm-run ${state.version}`;
  element("loading").hidden = !loading;
  if (loading) showLoading(loading);
  element("no-memory").hidden = Boolean(memory);
  element("legend").hidden = element("parts").hidden = !memory;
  if (memory) showMemory(memory, engine);
  if (engine) showWork(engine);
  if (model) showDefaults(model.defaults);
}

function showLoading({ doing, done, total, unit, n_units, total_units }) {
  const bar = element("loading-bar");
  // Without a value the bar says that something goes on.
  if (total) {
    bar.max = total;
    bar.value = done;
  } else {
    bar.removeAttribute("value");
  }
  const parts = total ? [doing, `${size(done)} of ${size(total)}`, unit, `${n_units} of ${total_units} units`] : [doing];
  element("loading-said").textContent = parts.join(" · ");
}

function showMemory({ memories, parts }, engine) {
  const inUse = engine.kv_positions ? engine.kv_positions_held / engine.kv_positions : 0;
  const list = element("memories");
  memories.forEach((memory, i) => {
    const node = list.children[i] ?? list.appendChild(memoryNode());
    fillMemory(node, memory, inUse);
  });
  while (list.children.length > memories.length) list.lastChild.remove();
  const rows = parts.map((part) => {
    const row = document.createElement("tr");
    for (const text of [part.name, part.rests_in, part.computes_on, size(part.weights)]) {
      row.insertCell().textContent = text;
    }
    return row;
  });
  // Parts do not change while a model is served, and a new table would be read out again.
  const body = element("parts").tBodies[0];
  const said = rows.map((row) => row.textContent).join();
  if (body.said !== said) body.replaceChildren(...rows);
  body.said = said;
}

const TERMS = ["weights", "used", "kept", "other"];

function memoryNode() {
  const node = document.createElement("div");
  node.className = "memory";
  const figures = document.createElement("p");
  figures.className = "figures";
  figures.append(document.createElement("span"), document.createElement("span"));
  const bar = document.createElement("div");
  bar.className = "bar";
  bar.setAttribute("role", "img");
  for (const term of TERMS) {
    const piece = document.createElement("span");
    piece.dataset.term = term;
    bar.append(piece);
  }
  const note = document.createElement("p");
  note.className = "soft";
  node.append(figures, bar, note);
  return node;
}

function fillMemory(node, memory, inUse) {
  const used = memory.kv_cache * inUse;
  const bytes = { weights: memory.weights, used, kept: memory.kv_cache - used, other: memory.other };
  const taken = memory.weights + memory.kv_cache + memory.other;
  // Of a small model in a large memory nothing could be seen.
  const isSmall = memory.budget !== null && taken < memory.budget / 10;
  const all = Math.max(isSmall ? 0 : (memory.budget ?? 0), taken, 1);
  const [figures, bar, note] = node.children;
  figures.children[0].textContent = memory.name;
  figures.children[1].textContent = memory.budget === null ? size(taken) : `${size(taken)} of ${size(memory.budget)}`;
  for (const piece of bar.children) piece.style.width = `${(100 * bytes[piece.dataset.term]) / all}%`;
  bar.setAttribute(
    "aria-label",
    `${memory.name}: ${size(memory.weights)} of weights, ${size(memory.kv_cache)} of KV cache, of which ${size(used)} are in use, ${size(memory.other)} of all else`,
  );
  const notes = [];
  if (memory.streamed) notes.push(`${size(memory.streamed)} are brought from here for every token`);
  if (isSmall) notes.push("drawn without what is free");
  note.hidden = notes.length === 0;
  note.textContent = notes.join("; ");
}

/** Counts of the last seconds, which a rate is made of. */
let samples = [];

function showWork(engine) {
  const isRunning = engine.requests_running > 0;
  samples = samples.filter(({ seconds }) => engine.seconds - seconds < 3 && seconds < engine.seconds);
  samples.push(engine);
  const span = engine.seconds - samples[0].seconds;
  const rate = span > 0 ? (engine.tokens - samples[0].tokens) / span : 0;
  if (!isRunning) samples = [engine];
  const say = (id, text) => (element(id).textContent = text);
  say("rate", isRunning && span > 0 ? rate.toFixed(1) : "–");
  say("running", `${engine.requests_running} of ${engine.sequences}`);
  say("waiting", engine.requests_waiting.toLocaleString("en"));
  say("held", `${engine.kv_positions_held.toLocaleString("en")} of ${engine.kv_positions.toLocaleString("en")}`);
  const share = engine.prompt_tokens ? engine.prompt_tokens_cached / engine.prompt_tokens : 0;
  say("cached", engine.prompt_tokens ? `${Math.round(100 * share)} %` : "–");
}

function showDefaults({ temperature, top_p }) {
  element("temperature").placeholder = temperature;
  element("top_p").placeholder = top_p;
}

/** `12.6 GB`. */
function size(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let i = 0;
  while (bytes >= 999.5 && i < units.length - 1) {
    bytes /= 1000;
    i += 1;
  }
  return `${i === 0 || bytes >= 99.95 ? Math.round(bytes) : bytes.toFixed(1)} ${units[i]}`;
}
