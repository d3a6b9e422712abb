import pytest
from held_model import Held


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    """A toy model's packs wait until this lets them go."""
    return Held(monkeypatch)
