"""python -m tests.infrastructure.make_golden replaces the golden files: read the difference before you commit it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.infrastructure import test_recipes
from tests.infrastructure.recipes import Recipes

if __name__ == "__main__":
    calls = {}
    for recipe in test_recipes.PUBLIC:
        with tempfile.TemporaryDirectory() as folder:
            recipes = test_recipes.recipes.__wrapped__(Path(folder))  # type: ignore[attr-defined]
            assert isinstance(recipes, Recipes)
            ran = recipes.run(recipe, *test_recipes.flags(recipe))
            assert ran.returncode == 0, ran.stderr
            calls[recipe] = recipes.calls
            if recipe == "up":
                (test_recipes.GOLDEN.parent / "kops.yaml").write_text((recipes.folder / "build/kops.yaml").read_text())
    test_recipes.GOLDEN.write_text(json.dumps(calls, indent=1) + "\n")
