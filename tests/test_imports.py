"""Imports run downward only: the rooms of the house, from the bottom up, and a walk over every import statement."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: A module may import what stands on an earlier line, or in its own room.
FLOORS = [
    ["errors", "memory", "randomness"],
    ["backend", "synsets"],
    ["kernels.shapes", "kernels.twins", "kernels.views", "outputs", "parallel"],
    ["processes"],
    ["kernels.cpu", "kernels.cuda"],
    ["kernels.compiled"],
    ["kernels"],
    ["layers"],
    ["fused_layers"],
    ["preprocessing"],
    ["network"],
    ["models", "forward_pass"],
    ["prediction"],
    ["weights", "data"],
    ["training"],
    ["localization"],
    ["visualization"],
    ["weak_localization"],
    ["cli"],
]
#: `npconvnet` itself only forwards names, when they are asked for.
FORWARDING = "npconvnet"


def modules():
    for path in sorted((ROOT / "npconvnet").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module):
    """(floor, room) of a module or of a name in it; the longest matching room wins."""
    matches = [
        (len(name), floor, name)
        for floor, names in enumerate(FLOORS)
        for name in names
        if f"{module}.".startswith(f"npconvnet.{name}.")
    ]
    return max(matches)[1:] if matches else None


@pytest.mark.parametrize(("module", "path"), [m for m in modules() if m[0] != FORWARDING])
def test_imports_run_downward(module, path):
    home = room(module)
    assert home is not None, f"{module} has no floor in this test"
    for name in imported(path):
        if name.startswith("npconvnet."):
            target = room(name)
            assert target is not None, f"{module} imports {name}, which has no floor"
            assert target[1] == home[1] or target[0] < home[0], f"{module} imports upward or sideways: {name}"


@pytest.mark.parametrize("path", [ROOT / "train_imagenet.py", *sorted((ROOT / "bench").glob("*.py"))], ids=str)
def test_scripts_stand_above_the_package(path):
    """They import what they like, and nothing in the package imports them."""
    assert all(room(name) for name in imported(path) if name.startswith("npconvnet."))
    above = {path.stem, "bench"}
    assert not [module for module, source in modules() if above & {name.split(".")[0] for name in imported(source)}]


def test_only_backend_imports_cupy():
    naming = [path.name for _, path in modules() if "cupy" in {name.split(".")[0] for name in imported(path)}]
    assert naming == []
    assert 'import_module("cupy")' in (ROOT / "npconvnet" / "backend.py").read_text()
    others = [path for module, path in modules() if module != "npconvnet.backend"]
    assert not [path for path in others if 'import_module("cupy' in path.read_text()]


def test_only_the_figures_import_matplotlib():
    drawing = {module for module, path in modules() if "matplotlib" in {name.split(".")[0] for name in imported(path)}}
    assert drawing
    assert all(module.startswith("npconvnet.visualization.figures.") for module in drawing)


def test_floors_name_no_module_twice():
    names = [name for floor in FLOORS for name in floor]
    assert all(a != b for a, b in pairwise(sorted(names)))
