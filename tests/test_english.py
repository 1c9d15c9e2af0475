"""The list of phrases finds its examples, in every kind of file, and leaves clean sentences alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.english import PHRASES, Phrase, complaints, main

CLEAN = (
    "There is no Job of this name, there were no pods, and there had been no node.",
    "The pod is no longer ready. It was no more than a second late. No one of the nodes is free.",
    "The component goes on top of any overlay. The events were so many that the queue was full.",
    "Deadlines are whole nanoseconds; counts are whole numbers.",
    "Receipts are told apart by event and trigger.",
    "The file turns out not to be a log. The points are drawn from a distribution.",
    "Instead of the default, the run resumes where it was interrupted. The rest of the log is complete.",
)


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: phrase.example)
def test_a_phrase_is_found_in_its_example_only(phrase: Phrase) -> None:
    assert list(phrase.found_in(phrase.example))
    assert not [text for text in (*CLEAN, phrase.instead) for match in phrase.found_in(text)]


def test_strings_docstrings_and_comments_are_searched_and_names_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('''"""The first\n\nline: x is\n    no list."""\n\nnobody = f"{wish} anew"  # so many of them\n''')
    assert [line.removeprefix(f"{path}:").split(": ")[:2] for line in complaints(path)] == [
        ["3", "'is no '"],
        ["6", "'anew'"],
        ["6", "'so many'"],
    ]


@pytest.mark.parametrize("name", ["a.md", "a.sql", "a.yaml"])
def test_a_phrase_may_be_broken_over_lines(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text("A clean line.\nHere the run goes\non, and there\nis no other phrase.\n")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{tmp_path / name}:2: 'goes on': continues; resumes\n"


def test_a_clean_folder_is_reported_as_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.md").write_text("\n".join(CLEAN))
    (tmp_path / "b.txt").write_text("nobody")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
