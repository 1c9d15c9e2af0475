# What there is to do
@default:
    just --list

# Three scenarios on this machine, from functions to a database
quickstart *ARGS:
    uv run --locked kn-bench quickstart {{ARGS}}

# The embedded platform, on port 8080
local *ARGS:
    uv run --locked kn-bench local {{ARGS}}

# All tests
test *ARGS:
    uv run --locked pytest {{ARGS}}

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

# Every measurement
bench: bench-load bench-local bench-extract

# The closed loop beside wrk and hey, against nginx on loopback
bench-load *ARGS:
    uv run --locked python bench/load.py {{ARGS}}

# What the embedded platform adds to a request, beside the function itself
bench-local *ARGS:
    uv run --locked python bench/local.py {{ARGS}}

# Extraction beside sqlite3's own .import
bench-extract *ARGS:
    uv run --locked python bench/extract.py {{ARGS}}
