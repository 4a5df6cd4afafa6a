"""A machine as `mosaic_gpu` wants it."""

import pytest

from recurrent_jax.kernels import mosaic_gpu


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses as it would there."""
    monkeypatch.setattr(mosaic_gpu, "elsewhere", lambda: None)
