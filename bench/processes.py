"""Two processes compared with one, and https with http, in the closed loop: `just bench-processes`.

The server is nginx with one worker for each free core, or for each core if none is free; nothing is pinned. On two
cores clients and server share the cores: compare the CPU time per request, not the rate.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import harness
import trustme

EXPERIMENT = """
targets: [{{url: "{url}"{tls}}}]
rate: {{requestsPerSecond: 0, duration: {seconds}s, connections: 100, maxIdleConns: 200, maxIdleConnsPerHost: 200}}
"""


def main() -> None:
    """Run the rounds and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    workers = max(1, (os.cpu_count() or 1) - 2)
    figures: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        issued.private_key_pem.write_to_path(folder / "key.pem")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(folder / "chain.pem", append=True)
        for _ in range(options.rounds):
            for client, flags, certificate in (
                ("one process", [], None),
                ("two processes", ["--processes=2"], None),
                ("one process, https", [], (folder / "chain.pem", folder / "key.pem")),
            ):
                with harness.nginx(folder, workers=workers, certificate=certificate) as url:
                    tls = f', tls: {{caFile: "{folder}/ca.pem"}}' if certificate else ""
                    (folder / "closed.yaml").write_text(EXPERIMENT.format(url=url, tls=tls, seconds=options.seconds))
                    command = harness.generator(folder / "closed.yaml", folder / "logs", *flags)
                    summary = json.loads(harness.run(command, core=None).text)
                used = 0.0
                for log in (folder / "logs").iterdir():
                    with log.open() as lines:
                        used += json.loads(lines.readlines()[-1])["machine"]["cpu_ns"] / 1000
                shutil.rmtree(folder / "logs")
                figures.setdefault(client, []).append((summary["achieved_rps"], used / summary["sent"]))
    one = figures["one process"]
    harness.publish(
        "processes",
        "Processes and TLS",
        f"{options.rounds} alternating rounds of {options.seconds} s, {os.cpu_count()} cores, nginx with {workers} "
        "workers (on two cores it shares them with the clients: compare the CPU time, not the rate).",
        ["client", "requests/s", "÷ one process", "CPU of the loops, µs per request", "÷ one process"],
        [
            [
                client,
                harness.spread([rate for rate, _ in rounds]),
                harness.ratios([rate for rate, _ in rounds], [rate for rate, _ in one]),
                harness.spread([cost for _, cost in rounds], 1),
                harness.ratios([cost for _, cost in rounds], [cost for _, cost in one]),
            ]
            for client, rounds in figures.items()
        ],
    )


if __name__ == "__main__":
    main()
