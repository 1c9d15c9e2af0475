"""`kn-bench doctor`: checks whether a cluster is fit for the benchmark."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
from collections import Counter

import orjson
from rich.console import Console

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.terminal import escape
from workload_generator.cluster.doctor.checks import check_all, check_machine
from workload_generator.cluster.doctor.reporter import CheckResult, Verdict
from workload_generator.commands.flags import add_kubeconfig, add_output, add_timeout
from workload_generator.kube.client import Kube

_COLOURS: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "failed": "red", "unknown": "yellow"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_kubeconfig(parser)
    parser.add_argument("--tools", action="store_true", help="check only the tools of this machine, without a cluster")
    parser.add_argument(
        "--fix",
        action="store_true",
        help="repair ContainerSources without K_SINK, and our brokers with dead subscribers",
    )
    add_timeout(parser, "2m", "the effect of --fix")
    add_output(parser, "the findings")


def run(options: argparse.Namespace) -> int:
    """Check; returns the exit code. Raises BenchError."""
    findings = asyncio.run(check_machine() if options.tools else _examine(options))
    if options.output == "json":
        document = [dataclasses.asdict(finding) for finding in findings]
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    else:
        _show(findings, Console(highlight=False, emoji=False))
    return ExitCode.FAILURE if any(finding.verdict == "failed" for finding in findings) else ExitCode.OK


def _show(findings: list[CheckResult], console: Console) -> None:
    """A line for each finding, with its reason and remedy below it; then the count of each verdict."""
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


async def _examine(options: argparse.Namespace) -> list[CheckResult]:
    async with await Kube.connect(options.kubeconfig, options.context) as kube:
        return await check_all(kube, fix=options.fix, timeout_s=options.timeout / NS_PER_S)
