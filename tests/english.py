"""Words that keep a reader from understanding: `just lint` finds them in code, help, messages and documents.

    python -m tests.english [PATH…]

Each is a habit that once made this project hard to read; beside it stands what English has instead. Only texts are
looked at: strings, docstrings and comments of Python files, and every line of documents.
"""

from __future__ import annotations

import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
READ = (
    "workload_generator",
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "functions/README.md",
    "k8s",
)
SUFFIXES = {".py", ".md", ".sql", ".yaml"}

INSTEAD = {
    r"to be had\b": "available",
    r"\banew\b": "again; resumes; cleared",
    r"\bgo(es|ne)? on (where|with)\b": "resumes",
    r"\bby heart\b": "cached",
    r"\bin the place of\b": "instead of; or say what failed",
    r"\bnobody\b|\bwhoever\b": "name who: the run, the server, no instance",
    r"\bso many of\b": "the number of",
    r"\bis no (time|list|shard|number|duration|mapping|name|file|folder|url|port|word|yaml)\b": "is not a valid …",
    r"\bare no (times|lists|numbers)\b": "are not valid …",
    r"\bis (it )?said\b": "is reported",
    r"\bbetter known before\b": "checked first",
    r"\bwithout making\b": "say what happens",
    r"\bwhat (it|is|was|has|they) .{3,60} (is|are) (?:a|an|not|no|said|told|kept)\b": "a noun",
    r"\bworse\b.*\bday\b": "back-off",
    r"\bthe more so\b|\bwherefore\b|\bthereof\b|\bhereby\b|\bthat which\b": "plain words",
    r"\bis to be (seen|known|told|said)\b": "subject, verb, object",
    r"\ball that (is|are|was) there\b": "all",
    r"\ba word (on|for) each\b": "a comment for each",
}
"""What is looked for (a regular expression, in any case), and what to write instead."""

_WRONG = [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in INSTEAD.items()]


def main(arguments: Sequence[str]) -> int:
    """Print each place; 1 when there is one."""
    paths = [Path(each) for each in arguments] or [path for pattern in READ for path in sorted(ROOT.glob(pattern))]
    found = [line for path in paths for file in _files(path) for line in complaints(file)]
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


def complaints(path: Path) -> Iterator[str]:
    """A line for each old word in the file."""
    for number, text in _texts(path):
        for wrong, instead in _WRONG:
            for match in wrong.finditer(text):
                at = number + text.count("\n", 0, match.start())
                yield f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{at}: {match[0]!r}: {instead}"


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in sorted(path.rglob("*")) if file.suffix in SUFFIXES]


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """What a person reads in the file, each with the number of its first line."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text("utf-8").splitlines(), 1)
        return
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
                yield token.start[0], token.string


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
