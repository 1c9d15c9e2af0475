import assert from "node:assert/strict";
import { type AddressInfo } from "node:net";
import { afterEach, beforeEach, test } from "node:test";

import { makeApp } from "./function.js";

let app: ReturnType<typeof makeApp>;
let base: string;

beforeEach(async () => {
  app = makeApp("pod-1");
  await app.listen({ host: "127.0.0.1", port: 0 });
  base = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
});

afterEach(() => app.close());

test("what counts as a request", async () => {
  const cases: [string, string, number, string?][] = [
    ["GET", "/health/liveness", 200, "ok"],
    ["GET", "/health/readiness", 200, "ok"],
    ["GET", "/nothing", 404],
    ["POST", "/", 200, "true"],
    ["GET", "/", 200, "false"],
    ["HEAD", "/", 200, ""],
  ];
  for (const [method, url, status, text] of cases) {
    const body = method === "POST" ? new Uint8Array(2 ** 20) : null;
    const response = await fetch(base + url, { method, body, headers: { "content-type": "application/x-anything" } });
    assert.equal(response.status, status, `${method} ${url}`);
    if (text !== undefined) {
      assert.equal(await response.text(), text, `${method} ${url}`);
      assert.equal(response.headers.get("content-type"), "text/plain; charset=utf-8");
    }
    if (url === "/") assert.equal(response.headers.get("x-instance"), "pod-1");
  }
});

test("one of fifty concurrent requests is the first", async () => {
  const ask = async () => (await fetch(base)).text();
  const answers = await Promise.all(Array.from({ length: 50 }, ask));
  assert.equal(answers.filter((text) => text === "true").length, 1);
  assert.equal(answers.filter((text) => text === "false").length, 49);
});
