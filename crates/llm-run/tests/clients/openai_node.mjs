// What programs do with the official client for Node, and what they may rely on then.
//
//     node openai_node.mjs BASE_URL KEY

import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Once upon a time" }];
const asked = { model: "talker", messages, max_tokens: 20, temperature: 0 };
const chat = (fields = {}) => client.chat.completions.create({ ...asked, ...fields });
const contents = (answer) => answer.choices.map((choice) => choice.message.content);

const listed = await client.models.list();
assert.deepEqual(listed.data.map((model) => model.id), ["talker"]);
assert.equal((await client.models.retrieve("talker")).object, "model");

const whole = await chat();
assert.equal(whole.choices[0].finish_reason, "length");
assert.equal(whole.usage.completion_tokens, 20);
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + 20);

let text = "";
let usage = null;
for await (const part of await chat({ stream: true, stream_options: { include_usage: true } })) {
  text += part.choices[0]?.delta.content ?? "";
  usage = part.usage ?? usage;
}
assert.equal(text, contents(whole)[0]);
assert.equal(usage.total_tokens, whole.usage.total_tokens);

// The client's own reader of streams.
const final = await client.chat.completions.stream(asked).finalContent();
assert.equal(final, text);

const drawn = { n: 2, temperature: 0.9, seed: 3 };
const first = contents(await chat(drawn));
assert.deepEqual(contents(await chat(drawn)), first);
assert.notEqual(first[0], first[1]);

const word = ` ${text.split(" ")[4]}`;
const stopped = (await chat({ stop: word })).choices[0];
assert.equal(stopped.finish_reason, "stop");
assert.equal(stopped.message.content, text.slice(0, text.indexOf(word)));

const { content } = (await chat({ logprobs: true, top_logprobs: 2, max_tokens: 3 })).choices[0].logprobs;
assert.equal(content.length, 3);
assert.equal(content[0].top_logprobs[0].token, content[0].token);

const continued = await client.completions.create({ model: "talker", prompt: "Once upon a time", max_tokens: 5 });
assert.equal(continued.usage.completion_tokens, 5);

const responseAsked = { model: "talker", input: "Once upon a time", max_output_tokens: 20, temperature: 0 };
const response = await client.responses.create(responseAsked);
assert.equal(response.output_text, text);
assert.equal(response.usage.output_tokens, 20);
let spoken = "";
let number = 0;
for await (const event of await client.responses.create({ ...responseAsked, stream: true })) {
  assert.equal(event.sequence_number, number++);
  if (event.type === "response.output_text.delta") spoken += event.delta;
}
assert.equal(spoken, text);

const isRefused = (kind, status, code, words) => (error) => {
  assert.ok(error instanceof kind, String(error));
  assert.equal(error.status, status);
  assert.equal(error.code, code);
  assert.match(error.message, words);
  return true;
};
await assert.rejects(chat({ model: "gpt-4" }), isRefused(OpenAI.NotFoundError, 404, "model_not_found", /this server has/));
await assert.rejects(chat({ temperature: 3 }), isRefused(OpenAI.BadRequestError, 400, null, /expected 0 to 2/));
const long = [{ role: "user", content: "once upon a time ".repeat(200) }];
await assert.rejects(chat({ messages: long }), isRefused(OpenAI.BadRequestError, 400, "context_length_exceeded", /context/));
const stranger = new OpenAI({ baseURL, apiKey: "another", maxRetries: 0 });
await assert.rejects(stranger.models.list().then(), isRefused(OpenAI.AuthenticationError, 401, null, /key/));

const many = await Promise.all(Array.from({ length: 8 }, () => chat()));
many.forEach((answer) => assert.deepEqual(contents(answer), [text]));

// Who goes away in the middle leaves the server to others.
const left = await chat({ stream: true, max_tokens: 200, ignore_eos: true });
for await (const part of left) {
  assert.equal(part.object, "chat.completion.chunk");
  break;
}
assert.deepEqual(contents(await chat()), [text]);
