"""A simulated cloud, laptop and cluster: a command fails if an earlier command did not create what it needs.

A stand-in for the commands of the recipes, as stand_in.sh, but with state. $WORLD is a folder: `state.json` is the
state; `pod/` has the logs in the generator's pod; `runs/<scenario>/` the logs that a run of that scenario will write.
kustomize, `kn-bench extract`, `combine` and `report` are the real ones. Imports take most of a call's time, so a
function imports what only it needs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

WORLD = Path(os.environ["WORLD"])
REAL = ("extract", "combine", "report")
KN_BENCH = str(Path(sys.executable).with_name("kn-bench"))
State = dict[str, Any]
EMPTY: State = {"ready": False, "bucket": "", "spec": [], "cluster": [], "kind": [], "applied": [], "images": []}


class Refused(Exception):
    """The error message of the real command."""


def need(exists: object, message: str) -> None:
    if not exists:
        raise Refused(message)


def flag(args: list[str], name: str) -> str:
    for number, word in enumerate(args):
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
        if word == name:
            return args[number + 1]
    raise Refused(f"{name} is not given")


def gcloud(state: State, args: list[str]) -> str:
    need(args[:2] == ["projects", "describe"], "unknown command")
    return args[2] + "\n"


def terraform(state: State, args: list[str]) -> str:
    verb = args[1]
    if verb == "init":
        state["ready"] = True
    need(state["ready"], "Error: Backend initialization required: run terraform init")
    if verb == "apply":
        state["bucket"] = next(word for word in args if word.startswith("-var=state_bucket=")).rpartition("=")[2]
    elif verb == "destroy":
        need(not state["cluster"], "the bucket still has the state of a cluster")
        state["bucket"] = ""
    return "google_storage_bucket.kops_state\n" if verb == "state" and state["bucket"] else ""


def kops(state: State, args: list[str]) -> str:
    need(os.environ["KOPS_STATE_STORE"] == f"gs://{state['bucket']}", "error reading the state store: no such bucket")
    verb = " ".join(args[:2])
    name = os.environ["KOPS_CLUSTER_NAME"]
    if args[0] == "replace":
        main, *groups = documents(Path(flag(args, "--filename")).read_text())
        need(main["metadata"]["name"] == name, "the file is of another cluster")
        state["spec"] = [doc["metadata"]["name"] for doc in groups]
    elif verb == "update cluster":
        need(state["spec"], f'cluster "{name}" not found')
        state["cluster"] = state["spec"]
    elif verb == "get cluster":
        need(state["cluster"], f'Error: cluster "{name}" not found')
    elif verb == "delete cluster":
        state["cluster"], state["spec"], state["applied"] = [], [], []
    else:
        need(state["cluster"], f'cluster "{name}" not found')
        if verb == "export kubeconfig":
            Path(flag(args, "--kubeconfig")).write_text(f"current-context: {name}\n")
        elif args[0] != "rolling-update":
            need(verb == "validate cluster" and Path(os.environ["KUBECONFIG"]).exists(), "no access")
    return ""


def kind(state: State, args: list[str]) -> str:
    if args[0] == "get":
        return "".join(f"{name}\n" for name in state["kind"])
    name = flag(args, "--name")
    if args[0] == "create":
        state["kind"].append(name)
        state["loaded"] = []
    elif args[0] == "delete":
        state["kind"] = [each for each in state["kind"] if each != name]
        state["applied"] = []
    else:
        need(name in state["kind"], f"no cluster {name}")
        if args[0] == "export":
            Path(flag(args, "--kubeconfig")).write_text(f"current-context: kind-{name}\n")
        else:
            need(set(args[4:]) <= set(state["images"]), "an image is not built")
            state["loaded"] = args[4:]
    return ""


def docker(state: State, args: list[str]) -> str:
    if args[0] == "build":
        state["images"].append(flag(args, "--tag"))
    elif args[0] == "tag":
        need(args[1] in state["images"], "no such image")
        state["images"].append(args[2])
    elif args[0] == "push":
        need(args[1] in state["images"], "no such image")
        state.setdefault("pushed", []).append(args[1])
    else:
        need(args[2] in state["images"], "no such image")
    return ""


def helm(state: State, args: list[str]) -> str:
    cluster(state)
    need("Namespace/metrics" in state["applied"], "namespace metrics not found")
    return ""


def cluster(state: State) -> str:
    """The current context. Raises Refused if its cluster does not exist."""
    path = Path(os.environ["KUBECONFIG"])
    need(path.exists(), "connection refused: localhost:8080")
    context = path.read_text().split()[-1]
    exists = context.removeprefix("kind-") in state["kind"] if context.startswith("kind-") else state["cluster"]
    need(exists, f"no cluster for the context {context}")
    return context


def kubectl(state: State, args: list[str]) -> str:
    if args[0] == "kustomize":
        return kustomized(args[1])
    context = cluster(state)
    if args[0] == "config":
        return context + "\n"
    if args[0] == "apply" and "-k" in args:
        for doc in documents(kustomized(flag(args, "-k"))):
            where = doc["metadata"].get("namespace")
            need(not where or f"Namespace/{where}" in state["applied"], f"namespaces {where!r} not found")
            state["applied"].append("/".join(filter(None, (doc["kind"], where, doc["metadata"]["name"]))))
    elif args[0] == "apply":
        need("Namespace/knative-serving" in state["applied"], "the namespaces have no placement yet")
        state["applied"].append(flag(args, "-f"))
    return ""


def documents(text: str) -> list[Any]:
    import yaml

    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def kustomized(folder: str) -> str:
    if "metrics-server" in Path(folder, "kustomization.yaml").read_text():
        return "{kind: Deployment, metadata: {name: metrics-server}}\n"  # kustomize would fetch the release
    import subprocess

    program = [os.environ["REAL_KUBECTL"], "kustomize", folder]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout


def images(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["image"]] if isinstance(value.get("image"), str) else []
        return own + [image for inner in value.values() for image in images(inner)]
    return [image for inner in value for image in images(inner)] if isinstance(value, list) else []


def uv(state: State, args: list[str]) -> str:
    if "kn-bench" not in args:
        os.execv(sys.executable, [sys.executable, *args[args.index("python") + 1 :]])
    verb, *words = args[args.index("kn-bench") + 1 :]
    if verb in REAL:
        os.execv(KN_BENCH, [KN_BENCH, verb, *words])
    context = cluster(state)
    if verb == "deploy":
        overlay = flag(words, "--overlay")
        known = state["loaded"] if context.startswith("kind-") else state.get("pushed", [])
        for doc in documents(kustomized(overlay if "/" in overlay else f"../k8s/overlays/{overlay}")):
            for image in images(doc):
                if "--registry" in words:
                    image = f"{flag(words, '--registry')}/{Path(image).name}"
                need(image in known, f"ErrImagePull: {image}")
            state["applied"].append(f"{doc['kind']}/{doc['metadata']['name']}")
    elif verb == "scenario":
        import shutil
        import subprocess

        need("Deployment/workload-generator" in state["applied"], "no generator is deployed")
        need(words[1:3] == ["--platform", "cluster"], "another platform")
        target = Path(flag(words, "--out"), "logs")
        shutil.copytree(WORLD / "runs" / words[0], target, dirs_exist_ok=True)
        shutil.copytree(target, WORLD / "pod", dirs_exist_ok=True)
        extract = ["extract", "--logs", str(target), "--db", flag(words, "--db")]
        subprocess.run([KN_BENCH, *extract], check=True, stdout=subprocess.DEVNULL)
    elif verb == "extract-logs":
        import shutil

        shutil.copytree(WORLD / "pod", flag(words, "--out"), dirs_exist_ok=True)
    return ""


def main() -> int:
    tool, args = Path(sys.argv[0]).name, sys.argv[1:]
    path = WORLD / "state.json"
    state = json.loads(path.read_text()) if path.exists() else EMPTY
    try:
        sys.stdout.write(globals()[tool](state, args))
    except Refused as refused:
        sys.stderr.write(f"{tool}: {refused}\n")
        return 1
    path.write_text(json.dumps(state))
    return 0


if __name__ == "__main__":
    sys.exit(main())
