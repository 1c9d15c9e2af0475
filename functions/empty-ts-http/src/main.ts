// Serves until SIGTERM or SIGINT; requests in flight are answered first.
import { hostname } from "node:os";

import { makeApp } from "./function.js";

const GRACE_MS = 10_000;

const app = makeApp(process.env.HOSTNAME || hostname());

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  process.once(signal, () => {
    setTimeout(() => process.exit(1), GRACE_MS).unref();
    void app.close();
  });
}

await app.listen({ host: process.env.BIND || "0.0.0.0", port: Number(process.env.PORT || 8080) });
