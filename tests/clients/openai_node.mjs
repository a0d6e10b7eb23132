// Runs the official OpenAI client for Node against a server. See README.md.

import assert from "node:assert/strict";
import OpenAI from "openai";

const baseURL = process.env.LEVAIN_BASE_URL.replace(/\/$/, "");
const root = baseURL.replace(/\/v1$/, "");
const key = process.env.LEVAIN_API_KEY;
const client = new OpenAI({ baseURL, apiKey: key || "none", maxRetries: 0, timeout: 300_000 });
const model = process.env.LEVAIN_MODEL || (await client.models.list()).data[0].id;
const hello = [{ role: "user", content: "Say hello." }];
const tool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Tells the weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", enum: ["Paris", "Berlin"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

class Skipped extends Error {}

function chat(more = {}, options = undefined) {
  return client.chat.completions.create(
    { model, messages: hello, max_tokens: 16, temperature: 0, ...more },
    options,
  );
}

async function fetchText(path, body) {
  const headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const init = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  const response = await fetch(root + path, init);
  assert.equal(response.status, 200, path);
  return response.text();
}

async function metric(name) {
  const line = (await fetchText("/metrics")).split("\n").find((line) => line.startsWith(name + " "));
  assert.ok(line, `no metric ${name}`);
  return Number(line.split(" ")[1]);
}

async function refused(kind, call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof kind)) throw error;
    assert.ok(error.error.message, "an error without a message");
    return error;
  }
  assert.fail(`expected ${kind.name}`);
}

const tests = {
  async models() {
    const ids = [];
    for await (const one of client.models.list()) ids.push(one.id);
    assert.ok(ids.includes(model));
    assert.equal((await client.models.retrieve(model)).id, model);
  },

  async chatWhole() {
    const answer = await chat();
    assert.equal(answer.object, "chat.completion");
    assert.equal(answer.choices[0].message.role, "assistant");
    assert.ok(["stop", "length"].includes(answer.choices[0].finish_reason));
    const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
    assert.ok(prompt_tokens > 0 && completion_tokens > 0 && completion_tokens <= 16);
    assert.equal(total_tokens, prompt_tokens + completion_tokens);
    assert.ok(answer._request_id);
  },

  async chatStreamedEqualsWhole() {
    const whole = await chat();
    let text = "";
    const finishes = [];
    let usage = null;
    for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) {
      assert.equal(chunk.object, "chat.completion.chunk");
      if (chunk.usage) {
        assert.deepEqual(chunk.choices, []);
        usage = chunk.usage;
        continue;
      }
      text += chunk.choices[0].delta.content ?? "";
      if (chunk.choices[0].finish_reason) finishes.push(chunk.choices[0].finish_reason);
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.deepEqual(finishes, [whole.choices[0].finish_reason]);
    assert.equal(usage.total_tokens, whole.usage.total_tokens);
  },

  async chatLogprobs() {
    const answer = await chat({ logprobs: true, top_logprobs: 2, n: 2 });
    for (const choice of answer.choices) {
      assert.ok(choice.logprobs.content.length > 0);
      for (const token of choice.logprobs.content) assert.equal(token.top_logprobs.length, 2);
    }
  },

  async toolsStreamed() {
    const messages = [{ role: "user", content: "What is the weather in Paris?" }];
    const stream = client.chat.completions.stream({
      model,
      messages,
      tools: [tool],
      tool_choice: "required",
      max_tokens: 200,
      temperature: 0,
      stream_options: { include_usage: true },
    });
    const answer = await stream.finalChatCompletion();
    assert.equal(answer.choices[0].finish_reason, "tool_calls");
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(call.function.name, "get_weather");
    assert.ok(["Paris", "Berlin"].includes(JSON.parse(call.function.arguments).city));
    const back = [...messages, answer.choices[0].message];
    back.push({ role: "tool", tool_call_id: call.id, content: "sunny" });
    const final = await chat({ messages: back, tools: [tool], tool_choice: "none" });
    assert.equal(typeof final.choices[0].message.content, "string");
  },

  async schema() {
    const schema = {
      type: "object",
      properties: { city: { type: "string", enum: ["Paris", "Berlin"] }, capital: { type: "boolean" } },
      required: ["city", "capital"],
      additionalProperties: false,
    };
    const answer = await client.chat.completions.parse({
      model,
      messages: [{ role: "user", content: "Name a capital city." }],
      response_format: { type: "json_schema", json_schema: { name: "place", schema, strict: true } },
      max_tokens: 200,
      temperature: 0,
    });
    const place = JSON.parse(answer.choices[0].message.content);
    assert.ok(["Paris", "Berlin"].includes(place.city) && typeof place.capital === "boolean");
  },

  async completions() {
    const content = "Once upon a time";
    const { tokens } = JSON.parse(await fetchText("/tokenize", { model, content }));
    const answer = await client.completions.create({
      model,
      prompt: tokens,
      max_tokens: 4,
      temperature: 0,
      logprobs: 2,
      echo: true,
      return_tokens_as_token_ids: true,
      ignore_eos: true,
    });
    const { logprobs, text } = answer.choices[0];
    assert.ok(text.startsWith(content));
    assert.deepEqual(logprobs.tokens.slice(0, tokens.length), tokens.map((token) => `token_id:${token}`));
    assert.equal(logprobs.token_logprobs[0], null);
    let streamed = "";
    for await (const chunk of await client.completions.create({
      model,
      prompt: tokens,
      max_tokens: 4,
      temperature: 0,
      ignore_eos: true,
      stream: true,
    })) {
      streamed += chunk.choices[0].text;
    }
    assert.equal(content + streamed, text);
  },

  async embeddings() {
    const input = ["A cat sat on the mat.", "Shares fell on Monday."];
    const packed = await client.embeddings.create({ model, input });
    const plain = await client.embeddings.create({ model, input, encoding_format: "float" });
    assert.equal(packed.data.length, 2);
    plain.data.forEach(({ embedding }, i) => {
      const other = packed.data[i].embedding;
      assert.equal(embedding.length, other.length);
      embedding.forEach((x, j) => assert.ok(Math.abs(x - other[j]) < 1e-6));
    });
  },

  async errors() {
    let error = await refused(OpenAI.NotFoundError, () => chat({ model: "no-such-model" }));
    assert.equal(error.code, "model_not_found");
    error = await refused(OpenAI.BadRequestError, () => chat({ n: 1_000_000 }));
    assert.equal(error.param, "n");
    error = await refused(OpenAI.BadRequestError, () => chat({ temprature: 1 }));
    assert.equal(error.code, "unknown_parameter");
    if (!key) return;
    const other = new OpenAI({ baseURL, apiKey: "wrong-key-0123456789", maxRetries: 0 });
    error = await refused(OpenAI.AuthenticationError, () => other.models.list());
    assert.equal(error.code, "invalid_api_key");
  },

  async cancelledStreamFreesItsSlot() {
    const before = await metric("levain_cancelled_total");
    const messages = [{ role: "user", content: "Count from 1 to 1000." }];
    const stream = await chat({ messages, max_tokens: 2000, stream: true });
    let seen = 0;
    for await (const _ of stream) {
      seen += 1;
      if (seen === 3) break;
    }
    stream.controller.abort();
    const deadline = Date.now() + 10_000;
    while ((await metric("levain_sequences_running")) > 0 || (await metric("levain_cancelled_total")) === before) {
      assert.ok(Date.now() < deadline, "the slot is still held");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  },

  async eightAtOnce() {
    const answers = await Promise.all(Array.from({ length: 8 }, () => chat()));
    assert.equal(new Set(answers.map((answer) => answer.choices[0].message.content)).size, 1);
  },
};

let passed = 0;
let failed = 0;
let skipped = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    passed += 1;
  } catch (error) {
    if (error instanceof Skipped || error?.code === "unsupported_parameter") {
      skipped += 1;
      console.log(`skipped ${name}: ${error.message}`);
    } else {
      failed += 1;
      console.log(`FAILED ${name}\n${error?.stack ?? error}`);
    }
  }
}
console.log(`${passed} passed, ${failed} failed (${skipped} skipped), openai for Node ${process.version}`);
process.exit(failed || !passed ? 1 : 0);
