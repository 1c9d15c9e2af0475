"""Stands for a command of the recipes: writes down how it was called, and answers as its test says.

$STAND_IN is a folder: `calls` gets a JSON line for each call; `answers.json` maps the beginning of a call to
{"out", "err", "code"}. The longest beginning counts. Of `uv run … python` the script is really run, and of `uv run …
kn-bench` what $REAL_KN_BENCH lists; `kind` remembers its clusters.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

HERE = Path(os.environ["STAND_IN"])


def main() -> int:
    name, args = Path(sys.argv[0]).name, sys.argv[1:]
    if name == "uv" and "python" in args:
        script = args[args.index("python") + 1 :]
        os.execv(sys.executable, [sys.executable, *script])
    if name == "uv" and "kn-bench" in args:
        words = args[args.index("kn-bench") + 1 :]
        if words[0] in os.environ.get("REAL_KN_BENCH", "").split():
            program = "import sys; from workload_generator.bench import main; sys.exit(main())"
            os.execv(sys.executable, [sys.executable, "-c", program, *words])
    call = [name, *args]
    with (HERE / "calls").open("a") as calls:
        calls.write(json.dumps(call) + "\n")
    line = " ".join(call)
    answers = json.loads((HERE / "answers.json").read_text())
    for beginning in sorted(answers, key=len, reverse=True):
        if line.startswith(beginning):
            answer = answers[beginning]
            sys.stdout.write(answer.get("out", ""))
            sys.stderr.write(answer.get("err", ""))
            return int(answer.get("code", 0))
    clusters = HERE / "kind-clusters"
    if line.startswith("kind create cluster"):
        clusters.write_text(args[args.index("--name") + 1] + "\n")
    elif line.startswith("kind get clusters"):
        sys.stdout.write(clusters.read_text() if clusters.exists() else "")
    elif line.startswith("kind delete cluster"):
        clusters.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
