// Drives the page in a Chromium without a window: node drive.mjs CHROMIUM TALKER TEXT LOCKED PICTURES
//
// TALKER, TEXT and LOCKED are addresses of servers: of a model with a chat template, of one without, and of one with the key
// below. Pictures are for people to look at.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const [executablePath, TALKER, TEXT, LOCKED, pictures] = process.argv.slice(2);
const KEY = "open-sesame";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const cases = [];
const test = (name, address, run, options = {}) => cases.push({ name, address, run, options });

/** Waits until `is` holds. */
async function until(is, what) {
  for (let i = 0; i < 600; i++) {
    if (await is()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`it never comes: ${what}`);
}

const isReady = (page) => until(() => page.locator("#state[data-state=ready]").count(), "ready");
const answers = (page) => page.locator(".message.assistant");
const answer = (page) => page.locator(".message.assistant .text").last();
const note = (page) => page.locator(".message.assistant footer span").last();
const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.textContent);
const isOver = (page) => until(() => page.locator("#stop").isHidden(), "the end of the answer");
const overflow = (page) => page.evaluate(() => document.scrollingElement.scrollWidth - innerWidth);

async function say(page, text) {
  await page.fill("#input", text);
  await page.keyboard.press("Enter");
}

/** Has the server's answers come slowly: the model here is quick. */
async function slowly(page) {
  const session = await page.context().newCDPSession(page);
  const rates = { offline: false, latency: 0, uploadThroughput: -1, downloadThroughput: 4000 };
  await session.send("Network.enable");
  await session.send("Network.emulateNetworkConditions", rates);
}

/** Answers requests for messages with `pieces` of text. */
async function write(page, pieces) {
  const parts = pieces.map((content) => ({ choices: [{ index: 0, delta: { content }, finish_reason: null }] }));
  parts.push({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
  const body = parts.map((part) => `data: ${JSON.stringify(part)}\n\n`).join("") + "data: [DONE]\n\n";
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body }));
}

/** Bodies of the requests for answers that the page sends from now on. */
function asked(page) {
  const bodies = [];
  page.on("request", (request) => {
    if (request.url().includes("completions")) bodies.push(request.postDataJSON());
  });
  return bodies;
}

test("an answer streams, and is told to listeners once", TALKER, async (page) => {
  await isReady(page);
  assert.equal(await page.title(), "talker – llm-run");
  assert.equal(await focused(page), "input");
  await page.evaluate(() => {
    window.heard = [];
    const said = document.getElementById("said");
    new MutationObserver(() => window.heard.push(said.textContent)).observe(said, { childList: true });
  });
  await page.fill("#max_tokens", "60");
  await slowly(page);
  await say(page, "Once upon a time");
  const lengths = new Set();
  await until(async () => {
    lengths.add((await answer(page).innerText()).length);
    return page.locator("#stop").isHidden();
  }, "the end");
  assert.ok(lengths.size > 3, `it grows: ${[...lengths]}`);
  const text = await answer(page).innerText();
  assert.match(await note(page).innerText(), /^60 tokens · [\d.]+ tokens\/s · ended at the limit of tokens$/);
  const heard = await page.evaluate(() => window.heard);
  assert.equal(heard.length, 2, heard.join(" | "));
  assert.equal(heard[1].trim().split(/\s+/).join(" "), text.split(/\s+/).join(" ").trim());
  assert.equal(await focused(page), "input");
  assert.equal(await page.inputValue("#input"), "");
});

test("Esc and the button stop an answer, and the server stops with it", TALKER, async (page) => {
  await isReady(page);
  await slowly(page);
  for (const stop of [() => page.keyboard.press("Escape"), () => page.click("#stop")]) {
    await say(page, "The little dog");
    await until(async () => (await answer(page).innerText()).length > 10, "its beginning");
    await stop();
    await isOver(page);
    assert.match(await note(page).innerText(), /stopped$/);
    const state = await (await fetch(`http://${TALKER}/status`)).json();
    assert.equal(state.engine.requests_waiting, 0);
    await until(async () => {
      const state = await (await fetch(`http://${TALKER}/status`)).json();
      return state.engine.requests_running === 0;
    }, "an idle server");
    assert.equal(await focused(page), "input");
    await page.click("#new");
    assert.equal(await page.locator(".message").count(), 0);
  }
});

test("what is set is asked for, an answer is made anew, and a reload keeps all", TALKER, async (page) => {
  await isReady(page);
  const bodies = asked(page);
  await page.fill("#system", "  Tell a tale. ");
  await page.fill("#temperature", "0.9");
  await page.fill("#top_p", "0.95");
  await page.fill("#max_tokens", "20");
  await page.fill("#seed", "-7");
  await say(page, "A bird");
  await isOver(page);
  const settings = { temperature: 0.9, top_p: 0.95, max_tokens: 20, seed: -7 };
  const messages = [
    { role: "system", content: "Tell a tale." },
    { role: "user", content: "A bird" },
  ];
  assert.deepEqual(bodies[0], { stream: true, stream_options: { include_usage: true }, ...settings, messages });
  const first = await answer(page).innerText();
  await page.fill("#seed", "8");
  await page.getByRole("button", { name: "Regenerate" }).click();
  await isOver(page);
  assert.equal(await answers(page).count(), 1);
  const second = await answer(page).innerText();
  assert.notEqual(second, first);
  assert.deepEqual(bodies[1], { ...bodies[0], seed: 8 });

  await say(page, "And then?");
  await isOver(page);
  assert.deepEqual(bodies[2].messages.map(({ role }) => role), ["system", "user", "assistant", "user"]);
  const all = await page.locator("#messages").innerText();
  await page.reload();
  await isReady(page);
  assert.equal(await page.locator("#messages").innerText(), all);
  assert.equal(await page.inputValue("#system"), "  Tell a tale. ");
  assert.equal(await page.inputValue("#seed"), "8");
  // A value out of bounds is not sent.
  await page.fill("#temperature", "3");
  await say(page, "More");
  assert.equal(await focused(page), "temperature");
  assert.equal(bodies.length, 3);
  await page.fill("#temperature", "");
  await page.click("#new");
  await page.reload();
  await isReady(page);
  assert.equal(await page.locator(".message").count(), 0);
  assert.ok(await page.locator("#empty").isVisible());
});

test("what a model writes is text", TALKER, async (page) => {
  await isReady(page);
  const evil = '<img src=x onerror="window.isHurt=1"><script>window.isHurt=1</script>';
  await page.fill("#system", evil);
  await write(page, [evil.slice(0, 9), evil.slice(9), `\n\`${evil}\` **${evil}**\n\`\`\`${evil}\n`, `${evil}\n  two\n`, "```\nafter"]);
  await say(page, evil);
  await isOver(page);
  assert.equal(await page.locator(".message.user .text").innerText(), evil);
  const text = await answer(page).evaluate((node) => node.textContent);
  assert.equal(text.split(evil).length - 1, 5);
  assert.equal(await answer(page).locator(".code code").evaluate((node) => node.textContent), `${evil}\n  two\n`);
  assert.equal(await answer(page).locator("p").last().innerText(), "after");
  await page.reload();
  await isReady(page);
  const unsafe = "img, iframe, #messages script, #messages a, #messages style";
  assert.equal(await page.locator(unsafe).count(), 0);
  assert.equal(await page.evaluate(() => window.isHurt), undefined);
  // Even if it did become HTML, the policy would not let it run.
  const refused = await page.evaluate(() => {
    try {
      document.getElementById("said").innerHTML = "<b>x</b>";
      return null;
    } catch (error) {
      return error.name;
    }
  });
  assert.equal(refused, "TypeError");
}, { isNoisy: true });

test("a keyboard is enough", TALKER, async (page) => {
  await isReady(page);
  await page.fill("#max_tokens", "8");
  await page.focus("#new");
  const order = [];
  while (order.at(-1) !== "seed" && order.length < 30) {
    order.push(await focused(page));
    await page.keyboard.press("Tab");
  }
  const expected = ["new", "toggle", "log", "input", "send", "system", "temperature", "top_p", "max_tokens", "seed"];
  assert.deepEqual(order.filter((id) => expected.includes(id)), expected);
  await page.focus("#input");
  await page.keyboard.type("Once upon");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("a time");
  assert.equal(await page.inputValue("#input"), "Once upon\na time");
  await page.keyboard.press("Enter");
  await until(() => answers(page).count(), "an answer");
  await isOver(page);
  assert.equal(await page.locator(".message.user .text").innerText(), "Once upon\na time");
  await page.keyboard.press("Shift+Tab");
  assert.equal(await focused(page), "Regenerate");
  const bodies = asked(page);
  await page.keyboard.press("Enter");
  await until(() => bodies.length === 1, "another request");
  await isOver(page);
  const outline = await page.evaluate(() => {
    document.getElementById("toggle").focus();
    return getComputedStyle(document.activeElement).outlineStyle;
  });
  assert.equal(outline, "solid");
});

test("a phone has no need to scroll sideways", TALKER, async (page) => {
  await isReady(page);
  await write(page, [`${"word".repeat(40)}\n\`\`\`rust\n${"let x = 1; ".repeat(20)}\n\`\`\`\nThe end of it.`]);
  await say(page, "x".repeat(200));
  await isOver(page);
  assert.equal(await overflow(page), 0);
  await page.screenshot({ path: `${pictures}/phone.png` });
  await page.click("#toggle");
  assert.ok(await page.locator("#memories .memory").first().isVisible());
  assert.equal(await page.locator("#composer").isVisible(), false);
  assert.equal(await overflow(page), 0);
  await page.screenshot({ path: `${pictures}/phone-details.png` });
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#panel").isVisible(), false);
  assert.equal(await focused(page), "toggle");
}, { viewport: { width: 320, height: 640 }, isMobile: true, hasTouch: true });

for (const colorScheme of ["light", "dark"]) {
  test(`it can be read in ${colorScheme} mode`, TALKER, async (page) => {
    await isReady(page);
    await write(page, ["Numbers, **strong** words and `code`:\n\n```python\nprint('hello')\n```\n\nThat is all."]);
    await say(page, "Show me all that you have.");
    await isOver(page);
    const colors = await page.evaluate(() => {
      const of = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
      return {
        ground: of("body", "backgroundColor"),
        pairs: [
          [of("body", "color"), of("body", "backgroundColor")],
          [of(".message footer", "color"), of("body", "backgroundColor")],
          [of(".user", "color"), of(".user", "backgroundColor")],
          [of("#send", "color"), of("#send", "backgroundColor")],
          [of("#settings .soft", "color"), of("aside", "backgroundColor")],
        ],
      };
    });
    assert.equal(luminance(colors.ground) < 0.1, colorScheme === "dark", colors.ground);
    for (const [ink, ground] of colors.pairs) {
      const [low, high] = [luminance(ink), luminance(ground)].sort((a, b) => a - b);
      assert.ok((high + 0.05) / (low + 0.05) >= 4.5, `${ink} on ${ground}`);
    }
    const animation = await page.evaluate(() => getComputedStyle(document.querySelector(".bar span")).transitionDuration);
    assert.equal(animation, "0s");
    await page.screenshot({ path: `${pictures}/${colorScheme}.png` });
  }, { colorScheme, reducedMotion: "reduce" });
}

/** Relative luminance of `rgb(…)`, as contrast is made of it. */
function luminance(color) {
  const linear = color.match(/[\d.]+/g).slice(0, 3).map((x) => x / 255).map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

test("memory is shown as it is planned and used", TALKER, async (page) => {
  await isReady(page);
  const { memory } = await (await fetch(`http://${TALKER}/status`)).json();
  const rows = await page.locator("#parts tbody tr").count();
  assert.equal(rows, memory.parts.length);
  await page.fill("#max_tokens", "30");
  await say(page, "Mia and Tom");
  await isOver(page);
  await until(async () => /^[1-9]/.test(await page.locator("#held").innerText()), "positions that are held");
  const used = page.locator('.bar [data-term="used"]').first();
  await until(() => used.evaluate((node) => node.getBoundingClientRect().width > 0), "a bar of them");
  assert.equal(await page.locator("#running").innerText(), "0 of 8");
});

test("a model that loads says how far it is", TALKER, async (page) => {
  const loading = { doing: "loading", done: 4.3e9, total: 9.8e9, unit: "layer 12", n_units: 14, total_units: 33 };
  const state = { state: "loading", message: "the model is loading", version: "0", loading, model: null, memory: null, engine: null };
  const body = `data: ${JSON.stringify(state)}\n\n`;
  await page.route("**/status/events", (route) => route.fulfill({ contentType: "text/event-stream", body }));
  await page.reload();
  await until(async () => (await page.locator("#loading-said").innerText()).includes("layer 12"), "progress");
  assert.equal(await page.locator("#loading-said").innerText(), "loading · 4.3 GB of 9.8 GB · layer 12 · 14 of 33 units");
  assert.ok(await page.locator("#send").isDisabled());
  await page.unroute("**/status/events");
  await isReady(page);
  assert.ok(await page.locator("#loading").isHidden());
  assert.ok(await page.locator("#send").isEnabled());
});

test("what goes wrong is said, and tried again", TALKER, async (page) => {
  await isReady(page);
  const error = { error: { message: "too many requests are answered or wait already" } };
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 429, json: error }));
  await page.fill("#max_tokens", "5");
  await say(page, "One");
  await until(() => page.locator("#trouble").isVisible(), "an alert");
  assert.equal(await page.locator("#trouble-said").innerText(), "Too many requests are answered or wait already.");
  assert.equal(await answers(page).count(), 0);
  await page.unroute("**/v1/chat/completions");
  await page.click("#again");
  await isOver(page);
  assert.equal(await answers(page).count(), 1);
  assert.ok(await page.locator("#trouble").isHidden());
  // Part of an answer that breaks off is kept.
  const part = `data: ${JSON.stringify({ choices: [{ delta: { content: "Half" } }] })}\n\n`;
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body: part }));
  await say(page, "Two");
  await until(() => page.locator("#trouble").isVisible(), "an alert");
  assert.equal(await answer(page).innerText(), "Half");
}, { isNoisy: true });

test("a model without a chat template continues texts", TEXT, async (page) => {
  await isReady(page);
  const bodies = asked(page);
  assert.ok(await page.locator("#system-row").isHidden());
  await page.fill("#max_tokens", "12");
  await say(page, "Once upon a time");
  await isOver(page);
  const first = await answer(page).evaluate((node) => node.textContent);
  assert.deepEqual([bodies[0].prompt, bodies[0].max_tokens], ["Once upon a time", 12]);
  assert.equal(await page.locator("#send").innerText(), "Continue");
  await page.click("#send");
  await until(() => bodies.length === 2, "another request");
  await isOver(page);
  assert.equal(bodies[1].prompt, `Once upon a time${first}`);
  await page.screenshot({ path: `${pictures}/text.png` });
});

test("a key is asked for, and a wrong one is told", LOCKED, async (page) => {
  await until(() => page.locator("#door").isVisible(), "a field for the key");
  await until(async () => (await focused(page)) === "key", "the field to be typed into");
  await page.screenshot({ path: `${pictures}/key.png` });
  await page.keyboard.type("wrong");
  await page.keyboard.press("Enter");
  await until(async () => (await page.locator("#door-said").innerText()) === "The server does not know this key.", "a refusal");
  await page.keyboard.type(KEY);
  await page.keyboard.press("Enter");
  await isReady(page);
  assert.ok(await page.locator("#door").isHidden());
  await page.fill("#max_tokens", "5");
  await say(page, "One");
  await isOver(page);
  assert.equal(await answers(page).count(), 1);
  await page.reload();
  await isReady(page);
}, { isNoisy: true });

test("pages of other origins get nothing", TALKER, async (page) => {
  await isReady(page);
  const framed = `<iframe src="http://${TALKER}/"></iframe><img src="http://${TALKER}/page/icon.svg">`;
  const other = createServer((_, response) => response.setHeader("content-type", "text/html").end(`<!doctype html><a href="http://${TALKER}/">here</a>${framed}`));
  await new Promise((resolve) => other.listen(0, "127.0.0.1", resolve));
  const before = await (await fetch(`http://${TALKER}/status`)).json();
  const statuses = [];
  page.on("response", (response) => {
    if (response.url().includes(TALKER)) statuses.push([new URL(response.url()).pathname, response.status()]);
  });
  await page.goto(`http://127.0.0.1:${other.address().port}/`);
  const outcomes = await page.evaluate(async (server) => {
    const ask = async (path, options) => {
      try {
        const response = await fetch(`http://${server}${path}`, options);
        return response.type === "opaque" ? "opaque" : response.status;
      } catch {
        return "refused";
      }
    };
    const body = JSON.stringify({ prompt: "One", max_tokens: 3 });
    return [
      await ask("/status"),
      await ask("/status", { mode: "no-cors" }),
      await ask("/v1/completions", { method: "POST", body, headers: { "content-type": "application/json" } }),
      await ask("/v1/completions", { method: "POST", body, mode: "no-cors" }),
    ];
  }, TALKER);
  assert.deepEqual(outcomes, ["refused", "opaque", "refused", "opaque"]);
  // Of what it may not read a page is not even told the status; its pictures and frames are told of here.
  await until(() => statuses.length > 0, "what the server answered");
  for (const [path, status] of statuses) assert.ok([403, 405].includes(status), `${path}: ${status}`);
  const after = await (await fetch(`http://${TALKER}/status`)).json();
  assert.equal(after.engine.passes, before.engine.passes);
  // Who follows a link sees the page.
  await page.click("a");
  await isReady(page);
  other.close();
}, { isNoisy: true });

let n_failed = 0;
for (const { name, address, run, options } of cases) {
  const { isNoisy, ...rest } = options;
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, ...rest });
  const page = await context.newPage();
  const noise = [];
  page.on("pageerror", (error) => noise.push(error.message));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) noise.push(message.text());
  });
  try {
    await page.goto(`http://${address}/`);
    await run(page);
    // Cases that provoke a refusal have the browser tell of it.
    if (!isNoisy) assert.deepEqual(noise, [], "the console is silent");
    console.log(`ok: ${name}`);
  } catch (error) {
    n_failed += 1;
    await page.screenshot({ path: `${pictures}/failed-${n_failed}.png` }).catch(() => {});
    console.log(`FAILED: ${name}\n${error.stack}\nconsole: ${noise.join("\n")}`);
  }
  await context.close();
}
await browser.close();
console.log(`${cases.length - n_failed} of ${cases.length} cases of the page passed; pictures are in ${pictures}`);
process.exitCode = n_failed ? 1 : 0;
