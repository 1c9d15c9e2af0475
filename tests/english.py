"""Phrases that are hard to read, and what to write instead: `just lint` reports them in code, help and documents.

    python -m tests.english [PATH…]

In Python files only strings, docstrings and comments are searched; in other files everything. A phrase may be
broken over several lines. Each pattern is wrong wherever it matches: change the text, do not add an exception.
"""

from __future__ import annotations

import re
import sys
import tokenize
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SEARCHED = (
    "workload_generator",
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "functions/README.md",
    "k8s",
)
SUFFIXES = {".py", ".md", ".sql", ".yaml"}
_REPLACEMENT = re.compile(r"\{[^{}\n]*\}")
"""A replacement field of a formatted string. It holds code."""


@dataclass(frozen=True)
class Phrase:
    """`pattern` is a regular expression for text in any case with single spaces; `example` is text that it matches."""

    pattern: str
    instead: str
    example: str

    def found_in(self, text: str) -> Iterator[re.Match[str]]:
        """Its places in a text."""
        return re.finditer(self.pattern, text, re.IGNORECASE)


BE = r"\b(?:is|are|was|were|be|been)"

PHRASES = (
    Phrase(r"\b(?:to|can|cannot|may) be had\b", "is available", "the port is not to be had"),
    Phrase(r"\banew\b", "again; replaces; is cleared", "the page, made anew"),
    Phrase(r"\b(?:go|goes|gone|going|went) on\b(?! top)", "continues; resumes", "the scenario goes on"),
    Phrase(r"\bby heart\b", "is cached", "responses that are known by heart"),
    Phrase(r"\b(?:in|tak(?:e|es|ing)|took) the place of\b", "instead of; replaces", "a fault in the place of data"),
    Phrase(r"\b(?:nobody|whoever)\b", "name it: no process, the caller, the server", "nobody says where events go"),
    Phrase(r"\bso many\b(?! that)", "the number of; N; that many", "so many of the broker"),
    Phrase(
        rf"(?<!there )(?<!there had )(?<!there has ){BE} no (?!longer|more|less|better|worse|such|one)",
        "is not a valid; is not a",
        "'1,a' is no list of experiments",
    ),
    Phrase(rf"{BE} none (?:of|that)\b", "is not one of", "x is none of a, b, c"),
    Phrase(rf"{BE}(?: it)? said\b", "is reported; is printed", "an invalid run is said"),
    Phrase(rf"{BE} told\b(?! apart| from)", "receives; is set; is notified", "until it is told to stop"),
    Phrase(r"\b(?:says?|said|tells?) so\b", "reports it; or leave it out", "the event `capped` says so"),
    Phrase(rf"{BE} (?:not )?looked at\b|\bhas looked at\b", "is checked; is reconciled", "it was not looked at yet"),
    Phrase(r"\bspeaks? (?:against|for)\b", "the reason against", "all that speaks against the run"),
    Phrase(r"\bknows? (?:nothing )?of\b", "uses; depends on", "it knows nothing of experiments"),
    Phrase(r"\bhea(?:rs?|rd) of\b", "receives; observes", "when it was heard of"),
    Phrase(r"\bwhat (?:becomes|became) of\b", "the result of; the state of", "logs what became of each"),
    Phrase(r"\bwhat (?:is|was) left of\b", "the rest of", "what is left of it"),
    Phrase(r"\bwhat (?:is|was|are) there\b", "existing files; the current state", "what is there stays"),
    Phrase(rf"{BE} there (?:already|still)\b", "already exists; still exists", "the folder is there already"),
    Phrase(r"\bstands? there\b", "appears; is listed", "the header stands there twice"),
    Phrase(
        r"\b(?:is|are|was|be|comes?|came) whole\b(?! \w*(?:numbers|seconds))",
        "is complete",
        "the other logs are whole",
    ),
    Phrase(r"\bmeans? nothing\b", "has no effect", "it means nothing with mode: event"),
    Phrase(r"\b(?:comes?|came) to nothing\b|\bnothing of it\b", "fails; nothing", "three starts came to nothing"),
    Phrase(r"\bmend(?:s|ed|ing)?\b", "fixes; repairs", "mend ContainerSources"),
    Phrase(r"\b(?:is|are|was|were|has) not to be\b", "must not be; cannot be", "it is not to be outrun"),
    Phrase(r"\bwish(?:es)?\b", "the request; the desired scale", "the autoscaler's wish"),
    Phrase(r"\b(?:else|default:?) drawn\b", "random", "default: drawn"),
    Phrase(r"\btak(?:e|es|en|ing) (?:\w+ ){0,3}away\b", "deletes; removes", "`delete` takes it away"),
    Phrase(r"\bstays? so\b|\b(?:is|are) so already\b", "remains; is unchanged", "what was changed stays so"),
    Phrase(r"\bbetter known before\b", "is checked first", "it is better known before the runs"),
    Phrase(r"\b(?:for want of|in vain|of late)\b", "without; without effect; recently", "skipped for want of a tool"),
    Phrase(r"\b(?:a word (?:on|for) each|feels? addressed)\b", "plain words", "the tables, and a word on each"),
)


def main(arguments: Sequence[str]) -> int:
    """Print each phrase with its place; 1 when there is one."""
    paths = [Path(each) for each in arguments] or [path for pattern in SEARCHED for path in sorted(ROOT.glob(pattern))]
    lines = [line for path in paths for file in _files(path) for line in complaints(file)]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if lines else 0


def complaints(path: Path) -> Iterator[str]:
    """A line for each phrase in the file."""
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    for first_line, text in _texts(path):
        words = list(re.finditer(r"\S+", text))
        spaced = " ".join(word[0] for word in words)
        starts = [0]
        for word in words:
            starts.append(starts[-1] + len(word[0]) + 1)
        for phrase in PHRASES:
            for match in phrase.found_in(spaced):
                word = words[bisect_right(starts, match.start()) - 1]
                line = first_line + text.count("\n", 0, word.start())
                yield f"{shown}:{line}: {match[0]!r}: {phrase.instead}"


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in sorted(path.rglob("*")) if file.suffix in SUFFIXES]


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a file that people read, each with the number of its first line."""
    if path.suffix != ".py":
        yield 1, path.read_text("utf-8")
        return
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
                yield token.start[0], _REPLACEMENT.sub("…", token.string)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
