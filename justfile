# What there is to do
@default:
    just --list

# A run on this machine, from a function to a database
quickstart *ARGS:
    uv run --locked kn-bench quickstart {{ARGS}}

# The functions of all languages whose toolchain is here: built and tested
functions *ARGS:
    uv run --locked kn-bench functions build {{ARGS}}
    uv run --locked kn-bench functions test {{ARGS}}

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
bench: bench-load bench-extract bench-functions

# The closed loop beside wrk and hey, against nginx on loopback
bench-load *ARGS:
    uv run --locked python bench/load.py {{ARGS}}

# Extraction beside sqlite3's own .import
bench-extract *ARGS:
    uv run --locked python bench/extract.py {{ARGS}}

# Cold start and warm TTFB of the functions; writes the table of functions/README.md
bench-functions *ARGS:
    uv run --locked python bench/functions.py {{ARGS}}
