"""Every test draws the same numbers, whichever tests ran before it; what is shared shows why it fails, as tests do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.register_assert_rewrite("story", "op_proof", "op_runs", "row_cases", "exactness", "permute_channels")

import channel_models  # noqa: E402  # after the line above, which is about what is imported later

STATE = channel_models.GENERATOR.bit_generator.state
STATES: dict[np.random.Generator, Any] = {channel_models.GENERATOR: STATE}
"""Of each generator that a module of tests draws from: the state that its import leaves."""


def pytest_pycollect_makemodule() -> None:
    """Let what a module draws while it is imported not depend on the modules before it."""
    channel_models.GENERATOR.bit_generator.state = STATE


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note the generators of the modules: workers share out the tests of a module as it comes."""
    modules = {item.module for item in session.items if isinstance(item, pytest.Function)}
    drawn = (each for module in modules for each in vars(module).values() if isinstance(each, np.random.Generator))
    for generator in drawn:
        STATES.setdefault(generator, generator.bit_generator.state)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Put all generators back, before the fixtures of the test draw."""
    for generator, state in STATES.items():
        generator.bit_generator.state = state
