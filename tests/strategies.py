"""Hypothesis strategies of several tests."""

from hypothesis import strategies as st

from workload_generator.log.records import ErrorKind, Phase, Result, Stamp

times = st.integers(0, 10**12)
reached = st.none() | times
texts = st.text(st.characters(), max_size=40)  # lone surrogates included
results = st.builds(
    Result,
    seq=st.integers(-5, 2**60),
    phase=st.sampled_from(Phase),
    target=st.just(0),
    due_ns=times,
    start_ns=times,
    status=st.integers(0, 999),
    dns_ns=reached,
    connect_ns=reached,
    tls_ns=reached,
    ttfb_ns=reached,
    total_ns=reached,
    bytes_read=st.integers(0, 2**60),
    cold=st.none() | st.booleans(),
    reused=st.booleans(),
    retries=st.integers(0, 1),
    stamp=st.none() | st.sampled_from(Stamp),
    segments=st.integers(0, 60_000),
    instance=st.none() | texts,
    event_id=st.none() | texts,
    error=st.none() | st.sampled_from(ErrorKind),
    message=st.none() | texts,
    address=st.none() | st.sampled_from(("127.0.0.1", "fe80::1%eth0")),
)
served = st.builds(
    lambda result, *times: result._replace(
        **dict(zip(("dns_ns", "connect_ns", "tls_ns", "ttfb_ns", "total_ns"), times, strict=True)),
        status=100 + result.status % 900,
        stamp=result.stamp or Stamp.USER,
        event_id=None,
        error=None,
        message=None,
    ),
    results,
    *[times] * 5,
)
"""Results of requests with a complete response."""
