"""A stand-in for kubectl, for pods without containers: `exec` runs the command locally, in the pod's folder.

`$KUBECTL_STANDIN` is its folder: `pods/<namespace>/<name>/{logs,tmp,data}` are what the container has at `/logs`,
`/tmp` and `/data`; `calls` has a line for each call; `environment.json` and `flags.json` are added to what is run,
flags to the generator alone. A file `faults/<n>.json` is used up by the first call that it `match`es:
- `refuse`: text for stderr, nothing is run
- `cut`: the session ends after this number of bytes of output; the command continues without it
- `damage`: the byte at this place of the output is another one
- `hang`: after this number of bytes there is no more output, and the session does not end
- `cut_when`: as `cut`, as soon as this file exists

Where there is a folder `volumes`, pods make their folders themselves. What is not `exec` is the real kubectl's.

As with kubectl, `-i` connects stdin, and the exit code is the command's; what is run survives the end of this program.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PLACES = ("/logs", "/data", "/tmp")


def main(argv: list[str]) -> int:
    folder = Path(os.environ["KUBECTL_STANDIN"])
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps(argv) + "\n")
    if "exec" not in argv:
        here = Path(os.environ["PATH"].split(os.pathsep)[0])
        real = shutil.which("kubectl", path=os.pathsep.join(os.environ["PATH"].split(os.pathsep)[1:]))
        if real is None or here != folder / "bin":
            sys.stderr.write(f"error: this stand-in knows exec alone: {argv}\n")
            return 1
        os.execv(real, ["kubectl", *argv])
    flags, words = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    (namespace,) = [each.partition("=")[2] for each in flags if each.startswith("--namespace=")]
    name = next(each for each in flags[flags.index("exec") + 1 :] if not each.startswith("-"))
    pod = folder / "pods" / namespace / name
    if not pod.is_dir() and (folder / "volumes").is_dir():
        make_pod(folder, pod)
    if not pod.is_dir():
        sys.stderr.write(f'Error from server (NotFound): pods "{name}" not found\n')
        return 1
    given = sys.stdin.buffer.read(int(words[3]) + int(words[4])) if "-i" in flags else None
    fault = find_fault(folder, " ".join(words) + (given or b"").decode("utf-8", "replace")[-4000:])
    if "refuse" in fault:
        sys.stderr.write(fault["refuse"] + "\n")
        return 1
    return run(folder, pod, words, given, fault)


def make_pod(folder: Path, pod: Path) -> None:
    """A pod that came by itself: `volumes/<namespace>` is what all pods of a namespace have at `/logs` and `/data`."""
    part = pod.with_name(f".{pod.name}.{os.getpid()}")
    (part / "tmp").mkdir(parents=True)
    volume = folder / "volumes" / pod.parent.name
    for name in ("logs", "data"):
        if volume.is_dir():
            (part / name).symlink_to(volume)
        else:
            (part / name).mkdir()
    with contextlib.suppress(OSError):  # another session made it
        part.rename(pod)


def find_fault(folder: Path, text: str) -> dict[str, Any]:
    for path in sorted((folder / "faults").glob("*.json")):
        fault: dict[str, Any] = json.loads(path.read_text())
        if re.search(fault["match"], text):
            path.unlink()
            return fault
    return {}


def run(folder: Path, pod: Path, words: list[str], given: bytes | None, fault: dict[str, Any]) -> int:
    words = [mapped(word, pod) for word in words]
    if words[0] == "python3":
        words[0] = sys.executable
    if words[0] == "workload-generator":
        words = [
            sys.executable,
            "-m",
            "workload_generator",
            *words[1:],
            *json.loads((folder / "flags.json").read_text()),
        ]
    if given is not None:
        source, request = given[: int(words[3])], json.loads(given[int(words[3]) :])
        wanted = json.dumps({key: mapped(value, pod) for key, value in request.items()}).encode()
        given, words[4] = source + wanted, str(len(wanted))
        words.insert(1, "-S")  # the agent needs the standard library alone
    environment = {**os.environ, "TMPDIR": str(pod / "tmp"), **json.loads((folder / "environment.json").read_text())}
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE if given is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    with (folder / "processes").open("a") as processes:
        processes.write(f"{process.pid}\n")
    if given is not None:
        assert process.stdin is not None
        process.stdin.write(given)
        process.stdin.flush()
    errors = threading.Thread(target=relay, args=(process.stderr, sys.stderr.buffer))
    errors.start()
    if "cut_when" in fault:
        threading.Thread(target=cut_when, args=(Path(fault["cut_when"]),), daemon=True).start()
    relay(process.stdout, sys.stdout.buffer, fault)
    errors.join()
    code = process.wait()
    code = 128 - code if code < 0 else code
    if code:
        sys.stderr.write(f"command terminated with exit code {code}\n")
    return code


def mapped(value: Any, pod: Path) -> Any:
    """What the container has at one of PLACES, as a word or behind the `=` of a flag, is in the pod's folder."""
    if not isinstance(value, str):
        return value
    head, equal, tail = value.partition("=")
    if equal and head.startswith("--"):
        return f"{head}={mapped(tail, pod)}"
    inside = any(value == place or value.startswith(f"{place}/") for place in PLACES)
    return f"{pod}{value}" if inside else value


def relay(source: Any, target: Any, fault: dict[str, Any] | None = None) -> None:
    fault = fault or {}
    done = 0
    while block := os.read(source.fileno(), 1 << 16):
        if fault.get("damage", -1) in range(done, done + len(block)):
            place = fault["damage"] - done
            block = block[:place] + bytes([block[place] ^ 0xFF]) + block[place + 1 :]
        for kind in ("cut", "hang"):
            if kind in fault and done + len(block) >= fault[kind]:
                target.write(block[: max(0, fault[kind] - done)])
                target.flush()
                if kind == "cut":
                    end()
                time.sleep(3600)
        done += len(block)
        target.write(block)
        target.flush()


def cut_when(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)
    end()


def end() -> None:
    """As kubectl ends when the connection to the API server breaks; whatever was run has lost its reader."""
    sys.stderr.write("error: error reading from error stream: next reader: unexpected EOF\n")
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
