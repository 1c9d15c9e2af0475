# What there is to do
@default:
    just --list

# A run on this machine, from a function to a database
quickstart *ARGS:
    uv run --locked kn-bench quickstart {{ARGS}}

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
bench: bench-load bench-extract bench-report

# The closed loop beside wrk and hey, against nginx on loopback
bench-load *ARGS:
    uv run --locked python bench/load.py {{ARGS}}

# Extraction beside sqlite3's own .import
bench-extract *ARGS:
    uv run --locked python bench/extract.py {{ARGS}}

# The report of ten million requests: its time, memory and size
bench-report *ARGS:
    uv run --locked python bench/report.py {{ARGS}}
