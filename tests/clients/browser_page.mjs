// Runs in the page: what a web application does with the official client. See browser.mjs.

import OpenAI from "openai";

const hello = [{ role: "user", content: "Say hello." }];

function clientOf({ baseURL, apiKey }) {
  return new OpenAI({ baseURL, apiKey, dangerouslyAllowBrowser: true, maxRetries: 0 });
}

/** What the page sees of an error. */
async function attempt(work) {
  try {
    return { value: await work() };
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, message: error.message };
  }
}

globalThis.levain = {
  answer: ({ server, model, more = {} }) =>
    attempt(async () => {
      const request = { model, messages: hello, max_tokens: 16, temperature: 0, ...more };
      const { data, response } = await clientOf(server).chat.completions.create(request).withResponse();
      return { content: data.choices[0].message.content, id: response.headers.get("x-request-id") };
    }),

  stream: ({ server, model }) =>
    attempt(async () => {
      const request = { model, messages: hello, max_tokens: 16, temperature: 0, stream: true };
      let content = "";
      let chunks = 0;
      for await (const chunk of await clientOf(server).chat.completions.create(request)) {
        content += chunk.choices[0]?.delta.content ?? "";
        chunks += 1;
      }
      return { content, chunks };
    }),

  stopped: ({ server, model }) =>
    attempt(async () => {
      const messages = [{ role: "user", content: "Count from 1 to 1000." }];
      const request = { model, messages, max_tokens: 2000, stream: true };
      const stream = await clientOf(server).chat.completions.create(request);
      for await (const _ of stream) break;
      stream.controller.abort();
      return true;
    }),

  models: ({ server }) =>
    attempt(async () => {
      const ids = [];
      for await (const model of clientOf(server).models.list()) ids.push(model.id);
      return ids;
    }),
};
