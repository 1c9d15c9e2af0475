"""A recipe is a script of bash: a test that runs one is skipped where that is missing."""

from __future__ import annotations

import pytest

from tests import needs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "recipes" in fixtures:
            item.add_marker(needs.mark(needs.BASH))
        elif "newcomer" in fixtures:
            item.add_marker(needs.mark(needs.BASH, needs.KUBECTL))
