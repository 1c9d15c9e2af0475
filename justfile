# What there is to do
@default:
    just --list

# Three scenarios on this machine, from functions to a database
quickstart *ARGS:
    uv run --locked kn-bench quickstart {{ARGS}}

# The embedded platform, on port 8080
local *ARGS:
    uv run --locked kn-bench local {{ARGS}}

# The functions of all languages whose toolchain is here: built and tested
functions *ARGS:
    uv run --locked kn-bench functions build {{ARGS}}
    uv run --locked kn-bench functions test {{ARGS}}

# All tests that this machine can run; a table at the end says what it could not
test *ARGS:
    uv run --locked pytest -n auto {{ARGS}}

# All parts of the tests, also those that take toolchains, tools, a control plane and containers; a table of what ran
test-all *PARTS:
    uv run --locked python -m tests.parts {{PARTS}}

# Style, types and import contracts
lint:
    uv run --locked ruff format --check .
    uv run --locked ruff check .
    uv run --locked mypy
    uv run --locked lint-imports

# Mend what can be mended by machine
fix:
    uv run --locked ruff format .
    uv run --locked ruff check --fix .

# Every measurement; each writes its section of bench/RESULTS.md, the functions' their own table
bench: bench-load bench-open bench-truth bench-processes bench-memory bench-local bench-eventing bench-extract bench-report bench-top bench-startup bench-house bench-functions

# The closed loop beside its peers: wrk, hey, h2load, ab, a Go client, Locust, and what else there is
bench-load *ARGS:
    uv run --locked --group bench python bench/load.py {{ARGS}}

# The open loop: lag beside a Go client and the loop's own timers, and what it costs
bench-open *ARGS:
    uv run --locked --group bench python bench/open.py {{ARGS}}

# TTFB as logged against the wire
bench-truth *ARGS:
    uv run --locked --group bench python bench/truth.py {{ARGS}}

# Two processes against one, https against http
bench-processes *ARGS:
    uv run --locked --group bench python bench/processes.py {{ARGS}}

# Memory after ten million results, and of a connection
bench-memory *ARGS:
    uv run --locked --group bench python bench/memory.py {{ARGS}}

# What the embedded platform adds to a request, beside the function itself
bench-local *ARGS:
    uv run --locked python bench/local.py {{ARGS}}

# What an event costs beside a plain POST, and how many the receiver takes on a core
bench-eventing *ARGS:
    uv run --locked python bench/eventing.py {{ARGS}}

# Extraction beside sqlite3's own .import
bench-extract *ARGS:
    uv run --locked python bench/extract.py {{ARGS}}

# The report of ten million requests: its time, memory and size
bench-report *ARGS:
    uv run --locked python bench/report.py {{ARGS}}

# Cold start and warm TTFB of the functions; writes the table of functions/README.md
bench-functions *ARGS:
    uv run --locked python bench/functions.py {{ARGS}}

# The manifests against the schemas of Kubernetes and Knative ($KNATIVE_CRDS), and checkov's checks
test-manifests *ARGS:
    BENCH_CHECKOV=1 uv run --locked --group manifests pytest tests/test_manifests.py {{ARGS}}

# The image, really built and run: root, podman, buildah, runc and debootstrap; its base is made once and kept in the user's cache
test-image *ARGS:
    BENCH_IMAGE=1 uv run --locked pytest tests/container {{ARGS}}

# A Kubernetes control plane on this machine, with simulated nodes; prints the KUBECONFIG to use
cluster-up *ARGS:
    uv run --locked python -m tests.cluster up {{ARGS}}

# The end of it
cluster-down *ARGS:
    uv run --locked python -m tests.cluster down {{ARGS}}

# What takes a cluster: against such a plane of its own, or the cluster of $KUBECONFIG in namespaces of its own; $KNATIVE_CRDS as above
test-cluster *ARGS:
    BENCH_CLUSTER=1 uv run --locked pytest tests/cluster --timeout=600 {{ARGS}}

# Recipes, templates and settings of infrastructure/, with checkov's checks of terraform
test-infrastructure *ARGS:
    BENCH_CHECKOV=1 uv run --locked pytest tests/infrastructure {{ARGS}}

# A tick of `kn-bench top` with 100 nodes and 10,000 pods: its time and memory
bench-top *ARGS:
    uv run --locked python bench/top.py {{ARGS}}

# Commands that have nothing to wait for, beside `import asyncio, json`
bench-startup *ARGS:
    uv run --locked python bench/startup.py {{ARGS}}

# How large the package is, and how its parts hang together
bench-house *ARGS:
    uv run --locked --group bench python bench/house.py {{ARGS}}
