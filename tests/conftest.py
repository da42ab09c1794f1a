"""Every test draws the same weights, whichever tests ran before it; what is shared shows why it fails, as tests do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("story", "op_proof", "op_runs", "row_cases", "exactness", "permute_channels")

import channel_models  # noqa: E402  # after the line above, which is about what is imported later

STATE = channel_models.GENERATOR.bit_generator.state


def pytest_pycollect_makemodule() -> None:
    """Let what a module draws while it is imported not depend on the modules before it."""
    channel_models.GENERATOR.bit_generator.state = STATE


@pytest.fixture(autouse=True)
def drawn_anew() -> None:
    """Put the generator of `channel_models.weight` back."""
    channel_models.GENERATOR.bit_generator.state = STATE
