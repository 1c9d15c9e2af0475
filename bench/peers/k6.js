// k6 in a closed loop: each virtual user sends its next request when the last one was answered.
import http from "k6/http";

export default function () {
  http.get(__ENV.TARGET);
}

export function handleSummary(data) {
  return { stdout: JSON.stringify(data.metrics.http_reqs.values) };
}
