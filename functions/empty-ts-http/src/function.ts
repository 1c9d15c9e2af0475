// Answers `true` to an instance's first request and `false` to every later one.
import Fastify, { type FastifyInstance } from "fastify";

const LARGEST = 32 * 2 ** 20;
const KEEP_ALIVE_MS = 120_000; // longer than callers keep idle connections: it is they who close them

/** One instance: its routes, and whether its first request is still to come. Health checks never count as that. */
export function makeApp(instance: string): FastifyInstance {
  let first = true;
  let closing = false;
  const app = Fastify({ logger: false, bodyLimit: LARGEST, keepAliveTimeout: KEEP_ALIVE_MS, forceCloseConnections: "idle" });

  app.addHook("preClose", (done) => {
    closing = true;
    done();
  });

  // Bodies are read to their end, whatever they are, and not looked at.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", { parseAs: "buffer" }, (_request, _body, done) => done(null));

  app.route({
    method: ["GET", "HEAD", "POST"],
    url: "/",
    handler: (_request, reply) => {
      const text = first ? "true" : "false";
      first = false;
      if (closing) reply.header("connection", "close"); // else a connection that was busy at SIGTERM would be kept
      return reply.type("text/plain; charset=utf-8").header("x-instance", instance).send(text);
    },
  });
  app.route({
    method: ["DELETE", "OPTIONS", "PATCH", "PUT"],
    url: "/",
    handler: (_request, reply) => reply.code(405).header("allow", "GET, HEAD, POST").send(),
  });
  for (const url of ["/health/liveness", "/health/readiness"]) {
    app.get(url, (_request, reply) => reply.type("text/plain; charset=utf-8").send("ok"));
  }
  return app;
}
