"""Runs use the event loop of the pod."""

from tests.engine.conftest import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
