"""`kn-bench doctor`: whether a cluster is fit for the benchmark, and what to do where it is not."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
from collections import Counter
from pathlib import Path

import orjson
from rich.console import Console
from rich.markup import escape

from workload_generator.cluster.doctor.checks import check_all, check_machine
from workload_generator.cluster.doctor.findings import Finding, Verdict
from workload_generator.commands.flags import as_in_a_file
from workload_generator.experiment.field_kinds import duration
from workload_generator.kube.client import Kube

_COLOURS: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "failed": "red", "unknown": "yellow"}


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: as kubectl finds it")
    parser.add_argument("--context", metavar="NAME", help="of the kubeconfig; default: its current one")
    parser.add_argument("--tools", action="store_true", help="only this machine's tools: no cluster is asked")
    parser.add_argument("--fix", action="store_true", help="mend ContainerSources whose pod has no K_SINK")
    parser.add_argument(
        "--timeout",
        type=as_in_a_file(duration),
        default=120 * 10**9,
        metavar="D",
        help="how long --fix waits for the pod; default 2m",
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    findings = asyncio.run(check_machine() if options.tools else _examine(options))
    if options.output == "json":
        document = [dataclasses.asdict(finding) for finding in findings]
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    else:
        _show(findings, Console(highlight=False))
    return 1 if any(finding.verdict == "failed" for finding in findings) else 0


def _show(findings: list[Finding], console: Console) -> None:
    """A line each, why and what to do below it; then how many of which."""
    width = max((len(finding.check) for finding in findings), default=0)
    indent = " " * (8 + 1 + width + 1)
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        line = f"[{colour}]{finding.verdict:<8}[/] {finding.check:<{width}} {escape(finding.text)}"
        console.print(line, soft_wrap=True)
        for word, text in (("why", finding.why), ("do ", finding.fix)):
            if text:
                console.print(f"{indent}[dim]{word}[/] {escape(text)}", soft_wrap=True)
    counts = Counter(finding.verdict for finding in findings)
    console.print(", ".join(f"{counts[verdict]} {verdict}" for verdict in _COLOURS if counts[verdict]))


async def _examine(options: argparse.Namespace) -> list[Finding]:
    async with await Kube.connect(options.kubeconfig, options.context) as kube:
        return await check_all(kube, fix=options.fix, timeout_s=options.timeout / 1e9)
