"""Every test draws the same weights, whichever tests ran before it."""

from __future__ import annotations

import channel_models
import pytest

STATE = channel_models.GENERATOR.bit_generator.state


def pytest_pycollect_makemodule() -> None:
    """Let what a module draws while it is imported not depend on the modules before it."""
    channel_models.GENERATOR.bit_generator.state = STATE


@pytest.fixture(autouse=True)
def drawn_anew() -> None:
    """Put the generator of `channel_models.weight` back."""
    channel_models.GENERATOR.bit_generator.state = STATE
