// The other side, made of the CloudEvents SDK for JavaScript: `accept` prints what it gets, `send URL` sends.
import http from "node:http";
import { CloudEvent, HTTP } from "cloudevents";

const [mode, url] = process.argv.slice(2);

if (mode === "accept") {
  const server = http.createServer((request, response) => {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", () => {
      if (request.method !== "POST") {
        response.writeHead(404).end();
        return;
      }
      try {
        const event = HTTP.toEvent({ headers: request.headers, body: Buffer.concat(pieces).toString() });
        event.validate();
        console.log(JSON.stringify({ ok: true, event: event.toJSON() }));
        response.writeHead(202).end();
      } catch (error) {
        console.log(JSON.stringify({ ok: false, why: String(error) }));
        response.writeHead(400).end(String(error));
      }
    });
  });
  server.listen(Number(url), "127.0.0.1", () => console.log(JSON.stringify({ listening: true })));
} else {
  const event = (id, data = { number: 1 }) =>
    new CloudEvent({ id, type: "peer", source: "/peer", sequence: "7", data, datacontenttype: "application/json" });
  const post = async ({ headers, body }) => {
    const text = typeof body === "string" || body instanceof Buffer ? body : JSON.stringify(body);
    const answer = await fetch(url, { method: "POST", headers, body: text });
    console.log(JSON.stringify({ status: answer.status, text: await answer.text() }));
  };
  await post(HTTP.binary(event("binary-1"))); // with letters of ASCII: it does not percent-encode headers
  await post(HTTP.structured(event("structured-ü")));
  const batch = [event("batch-1"), event("batch-2", "text"), event("batch-3")].map((each) => each.toJSON());
  await post({ headers: { "content-type": "application/cloudevents-batch+json" }, body: JSON.stringify(batch) });
}
