// A page in a real browser calls the server with OpenAI's own client: from an origin that may, and from one that
// may not. `browser.mjs ORIGIN_PORT`: the port of the allowed origin http://localhost:PORT. See README.md.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const baseURL = process.env.LEVAIN_BASE_URL.replace(/\/$/, "");
const root = baseURL.replace(/\/v1$/, "");
const key = process.env.LEVAIN_API_KEY;
const auth = key ? { authorization: `Bearer ${key}` } : {};
const models = await (await fetch(`${baseURL}/models`, { headers: auth })).json();
const model = process.env.LEVAIN_MODEL || models.data[0].id;
const server = { baseURL, apiKey: key || "none" };

const here = import.meta.dirname;
const bundle = await build({
  entryPoints: [join(here, "browser_page.mjs")],
  bundle: true,
  format: "iife",
  write: false,
  logLevel: "error",
});

/** Serves the page at a port of its own, which is what makes an origin. */
async function site(port) {
  const http = createServer((request, response) => {
    const script = request.url === "/page.js";
    response.setHeader("content-type", script ? "text/javascript" : "text/html; charset=utf-8");
    response.end(script ? bundle.outputFiles[0].text : '<!doctype html><script src="/page.js"></script>');
  });
  await new Promise((resolve) => http.listen(port, "127.0.0.1", resolve));
  return http;
}

const sites = [await site(Number(process.argv[2])), await site(0)];
const [allowed, foreign] = sites.map((http) => `http://localhost:${http.address().port}/`);
const profile = mkdtempSync(join(tmpdir(), "levain-browser-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  headless: true,
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});

async function open(url) {
  const page = await browser.newPage();
  await page.goto(url);
  return (what, more = {}) =>
    page.evaluate(([what, options]) => globalThis.levain[what](options), [what, { server, model, ...more }]);
}

async function metric(name) {
  const text = await (await fetch(`${root}/metrics`, { headers: auth })).text();
  return Number(text.split("\n").find((line) => line.startsWith(`${name} `)).split(" ")[1]);
}

const call = await open(allowed);
const tests = {
  async answersAndStreams() {
    const whole = await call("answer");
    assert.ok(whole.value?.content, JSON.stringify(whole));
    assert.ok(whole.value.id, "the page may read the request's id");
    const streamed = await call("stream");
    assert.equal(streamed.value?.content, whole.value.content, JSON.stringify(streamed));
    assert.ok(streamed.value.chunks > 2);
    assert.ok((await call("models")).value.includes(model));
  },

  async errorsReachThePage() {
    const missing = await call("answer", { model: "no-such-model" });
    assert.deepEqual([missing.kind, missing.status, missing.code], ["NotFoundError", 404, "model_not_found"]);
    const bad = await call("answer", { more: { temprature: 1 } });
    assert.deepEqual([bad.kind, bad.status, bad.code], ["BadRequestError", 400, "unknown_parameter"]);
    if (!key) return;
    const denied = await call("answer", { server: { baseURL, apiKey: "wrong-key-0123456789" } });
    assert.deepEqual([denied.kind, denied.status, denied.code], ["AuthenticationError", 401, "invalid_api_key"]);
  },

  async aStoppedStreamFreesItsSlot() {
    const before = await metric("levain_cancelled_total");
    assert.equal((await call("stopped")).value, true);
    const deadline = Date.now() + 30_000;
    while ((await metric("levain_cancelled_total")) === before) {
      assert.ok(Date.now() < deadline, "the slot is still held");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  },

  async anotherOriginIsBlocked() {
    const callFromElsewhere = await open(foreign);
    for (const what of ["answer", "stream", "models"]) {
      const blocked = await callFromElsewhere(what);
      assert.equal(blocked.kind, "APIConnectionError", `${what}: ${JSON.stringify(blocked)}`);
    }
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}\n${error?.stack ?? error}`);
  }
}
const version = browser.browser()?.version() ?? "";
await browser.close();
sites.forEach((http) => http.close());
rmSync(profile, { recursive: true, force: true });
console.log(`${Object.keys(tests).length - failed} passed, ${failed} failed, a page in Chromium ${version}`);
process.exit(failed ? 1 : 0);
