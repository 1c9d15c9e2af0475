"""Makes the engine's endpoints from the targets of an experiment: addresses, TLS contexts and encoded requests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from workload_generator.base.errors import UsageError
from workload_generator.cloudevents.encode import EventEncoder
from workload_generator.engine.endpoint import Endpoint, Origin
from workload_generator.engine.http1 import encode_request, split_url
from workload_generator.experiment.model import Experiment, Target
from workload_generator.run.sink import draft_of, other_headers, overrides

if TYPE_CHECKING:
    import ssl


def make_endpoints(experiment: Experiment, dev_url: str | None) -> list[Endpoint]:
    """An endpoint for each target. With `dev_url`, or else `baseUrl`, connections lead there; the Host header keeps the
    target's host. Raises UsageError.
    """
    elsewhere = dev_url or experiment.base_url or None
    return [_endpoint(target, elsewhere) for target in experiment.targets]


def make_event_endpoint(experiment: Experiment, run_id: str, dev_url: str | None) -> Endpoint:
    """The endpoint of the sink, for an experiment of `sink.for_events`. Raises UsageError."""
    (target,) = experiment.targets
    plain = _endpoint(replace(target, body=None, headers={}), dev_url)

    def head(headers: Mapping[str, str], length: int) -> bytes:
        known = {name.lower() for name in headers}
        rest = {name: value for name, value in other_headers(target.headers).items() if name.lower() not in known}
        empty = encode_request("POST", target.url, {**headers, **rest}, b"")
        return empty.replace(b"\r\nContent-Length: 0\r\n", b"\r\nContent-Length: %d\r\n" % length, 1)

    events = EventEncoder(draft_of(experiment, overrides()), f"{run_id}-", head)
    return replace(plain, events=events)


def _endpoint(target: Target, elsewhere: str | None) -> Endpoint:
    where = split_url(elsewhere or target.url)
    ca_file = target.tls.ca_file if target.tls is not None else None
    origin = Origin(where.host, where.port, _tls_context(ca_file) if where.scheme == "https" else None)
    body = target.body.encode() if target.body else None
    return Endpoint(origin, target.method, encode_request(target.method, target.url, target.headers, body))


@cache
def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Trusts the system's CAs, those of `K_CA_CERTS` (PEM text, as Knative sets it) and the target's `tls.caFile`."""
    import ssl  # loaded by a run; `--check` of http targets does not need it

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    knative = os.environ.get("K_CA_CERTS")
    try:
        if knative:
            context.load_verify_locations(cadata=knative)
    except ssl.SSLError as error:
        raise UsageError(f"K_CA_CERTS: not valid PEM certificates: {error}") from None
    try:
        if ca_file:
            context.load_verify_locations(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"tls.caFile {ca_file}: {error}") from None
    return context
