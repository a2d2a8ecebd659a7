"""The names that `import npconvnet` offers, and what the README does with them."""

import re
from pathlib import Path

import pytest

import npconvnet

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", npconvnet.__all__)
def test_every_public_name_is_there(name):
    assert getattr(getattr(npconvnet, name), "__name__", name) == name


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="npconvnet has no 'nothing'"):
        _ = npconvnet.nothing


def test_the_readme_s_python_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = code.replace('"npconvnet/assets', f'"{Path(npconvnet.__file__).parent}/assets')
    names: dict[str, object] = {}
    exec(code, names)
    assert names["gradient"].shape == (1, 227, 227, 3)  # type: ignore[attr-defined]
    assert names["explained"].map.shape == (300, 451)  # type: ignore[attr-defined]


def test_the_readme_s_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (Path(__file__).parent.parent / target).exists(), target
