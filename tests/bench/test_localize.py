"""The benchmark of localisation, once through."""

import json
from importlib.util import find_spec

from click.testing import CliRunner

from bench import localize


def run_once(*arguments):
    result = CliRunner().invoke(localize.main, ["--repetitions", "1", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_json():
    report = json.loads(run_once("--json"))
    assert report.keys() == {"repetitions", "versions", "milliseconds"}
    assert {"photo to box, 500 x 375", "minimum cut", "segmentation"} <= report["milliseconds"].keys()
    assert ("segmentation, OpenCV's grabCut" in report["milliseconds"]) is (find_spec("cv2") is not None)
    assert min(report["milliseconds"].values()) > 0


def test_table():
    assert "minimum cut" in run_once()
