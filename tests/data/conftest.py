"""What tests of data share: a cache that is not the user's, and a small data set."""

from pathlib import Path

import pytest
from PIL import Image

from npconvnet.parallel import use_threads


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_threads: int) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    use_threads(1)  # two processes take longer to start than to prepare a few pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of two pictures, the second of each for validation, all red: 0, 60, 120 and 180."""
    for number, name in enumerate(["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (60 * number, 0, 0)).save(path)
    return tmp_path / "pictures"
