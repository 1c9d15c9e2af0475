"""Tests that run a recipe need bash; tests of a whole walk need kubectl, too."""

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
