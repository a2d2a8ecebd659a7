"""The study guide: its examples give what it says, and its links and pictures are there."""

import doctest
import re
from pathlib import Path

GUIDE = Path(__file__).parent.parent / "docs" / "gradient_vs_deconvnet.md"


def test_every_example_gives_what_the_guide_says():
    result = doctest.testfile(str(GUIDE), module_relative=False, encoding="utf-8")
    assert result.attempted > 25
    assert result.failed == 0


def test_links_and_pictures_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", GUIDE.read_text(encoding="utf-8"))
    assert targets
    for target in targets:
        assert target.startswith("http") or (GUIDE.parent / target).exists(), target


def test_every_command_of_the_guide_exists():
    from npconvnet.cli import commands

    named = re.findall(r"^ +npconvnet ([a-z-]+)", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert named
    assert set(named) <= set(commands.commands)
