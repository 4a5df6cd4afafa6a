"""Kernels of other devices run here in an interpreter."""

from collections.abc import Iterator

import pytest

from tests import cases


@pytest.fixture(autouse=True)
def at_hand(request: pytest.FixtureRequest) -> Iterator[None]:
    """Makes the kernel that a test is about run on this machine."""
    kernel = getattr(request.node, "callspec", None) and request.node.callspec.params.get("kernel")
    with cases.at_hand(kernel):
        yield
