# List the recipes
@default:
    just --list

# Run scenarios on this machine, from functions to a database and a report
quickstart *ARGS:
    uv run --locked kn-bench quickstart {{ARGS}}

# Start the embedded platform on port 8080
local *ARGS:
    uv run --locked kn-bench local {{ARGS}}

# Build and test the functions of all languages whose toolchain is installed
functions *ARGS:
    uv run --locked kn-bench functions build {{ARGS}}
    uv run --locked kn-bench functions test {{ARGS}}

# Run the tests; a table at the end lists those that this machine cannot run
test *ARGS:
    uv run --locked pytest -n auto {{ARGS}}

# Run all parts of the tests, including toolchains, tools, a control plane and containers; prints a table of the results
test-all *PARTS:
    uv run --locked python -m tests.parts {{PARTS}}

# Check style, types, import contracts and phrases
lint:
    uv run --locked ruff format --check .
    uv run --locked ruff check .
    uv run --locked mypy
    uv run --locked lint-imports
    uv run --locked python -m tests.english

# Fix the style automatically, where possible
fix:
    uv run --locked ruff format .
    uv run --locked ruff check --fix .
    uv run --locked python -m tests.architecture

# Run all measurements; each replaces its section of bench/RESULTS.md or the table of functions/README.md
bench: bench-load bench-open bench-truth bench-processes bench-memory bench-local bench-eventing bench-extract bench-report bench-top bench-startup bench-house bench-functions

# Compare the closed loop with wrk, hey, h2load, ab, a Go client, Locust and other installed clients
bench-load *ARGS:
    uv run --locked --group bench python bench/load.py {{ARGS}}

# Measure the lag and CPU time of the open loop; compare with a Go client and the event loop's timers
bench-open *ARGS:
    uv run --locked --group bench python bench/open.py {{ARGS}}

# Compare the logged TTFB with the wire
bench-truth *ARGS:
    uv run --locked --group bench python bench/truth.py {{ARGS}}

# Compare two processes with one, and https with http
bench-processes *ARGS:
    uv run --locked --group bench python bench/processes.py {{ARGS}}

# Measure the memory after ten million results, and per connection
bench-memory *ARGS:
    uv run --locked --group bench python bench/memory.py {{ARGS}}

# Measure the latency that the embedded platform adds to a request
bench-local *ARGS:
    uv run --locked python bench/local.py {{ARGS}}

# Measure the CPU time of an event, and the receiver's throughput per core
bench-eventing *ARGS:
    uv run --locked python bench/eventing.py {{ARGS}}

# Compare the extraction with sqlite3's .import
bench-extract *ARGS:
    uv run --locked python bench/extract.py {{ARGS}}

# Measure time, memory and size of the report of ten million requests
bench-report *ARGS:
    uv run --locked python bench/report.py {{ARGS}}

# Measure cold start and warm TTFB of the functions; replaces the table of functions/README.md
bench-functions *ARGS:
    uv run --locked python bench/functions.py {{ARGS}}

# Validate the manifests with the schemas of Kubernetes and Knative ($KNATIVE_CRDS) and with checkov
test-manifests *ARGS:
    BENCH_CHECKOV=1 uv run --locked --group manifests pytest tests/test_manifests.py {{ARGS}}

# Build and run the image; needs root, podman, buildah, runc and debootstrap; caches a base image
test-image *ARGS:
    BENCH_IMAGE=1 uv run --locked pytest tests/container {{ARGS}}

# Start a Kubernetes control plane with simulated nodes on this machine; prints its KUBECONFIG
cluster-up *ARGS:
    uv run --locked python -m tests.cluster up {{ARGS}}

# Stop the control plane
cluster-down *ARGS:
    uv run --locked python -m tests.cluster down {{ARGS}}

# Run the tests that need a cluster: on a control plane of their own, or in new namespaces of $KUBECONFIG's cluster
test-cluster *ARGS:
    BENCH_CLUSTER=1 uv run --locked pytest tests/cluster --timeout=600 {{ARGS}}

# Test the recipes, templates and settings of infrastructure/, with checkov for terraform
test-infrastructure *ARGS:
    BENCH_CHECKOV=1 uv run --locked pytest tests/infrastructure {{ARGS}}

# Measure time and memory of a tick of `kn-bench top` with 100 nodes and 10,000 pods
bench-top *ARGS:
    uv run --locked python bench/top.py {{ARGS}}

# Compare the start-up time of commands with `import asyncio, json`
bench-startup *ARGS:
    uv run --locked python bench/startup.py {{ARGS}}

# Count the package's size and the dependencies of its parts
bench-house *ARGS:
    uv run --locked --group bench python bench/house.py {{ARGS}}
