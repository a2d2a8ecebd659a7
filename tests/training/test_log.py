"""The log: one JSON object a line, cut back to the checkpoint when a run is resumed."""

import json

import pytest

from npconvnet.errors import InputError
from npconvnet.training.log import NAME, Log, read_log

EPOCH = {"epoch": 1, "training_loss": 2.0, "validation_loss": 1.9, "top1_error": 0.5, "top5_error": 0.1}


def test_lines_are_json(tmp_path):
    log = Log(tmp_path)
    log.write("step", 10, loss=1.5)
    log.write("note", 12, text="ü", share=0.5)
    lines = (tmp_path / NAME).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == read_log(tmp_path)
    assert read_log(tmp_path)[1] == {"event": "note", "step": 12, "text": "ü", "share": 0.5}


def test_cut_drops_what_will_be_written_again(tmp_path):
    log = Log(tmp_path)
    for step in (10, 20, 30):
        log.write("step", step, loss=1.0)
    log.write("epoch", 30, **EPOCH)
    log.write("step", 40, loss=1.0)
    Log(tmp_path, step=30, epochs=0)
    assert [(r["event"], r["step"]) for r in read_log(tmp_path)] == [("step", 10), ("step", 20), ("step", 30)]


def test_cut_keeps_finished_epochs(tmp_path):
    log = Log(tmp_path)
    log.write("epoch", 30, **EPOCH)
    log.write("step", 40, loss=1.0)
    Log(tmp_path, step=30, epochs=1)
    assert [r["event"] for r in read_log(tmp_path)] == ["epoch"]


def test_torn_last_line_is_left_out(tmp_path):
    log = Log(tmp_path)
    log.write("step", 10, loss=1.0)
    with (tmp_path / NAME).open("a") as file:
        file.write('{"event": "st')
    assert len(read_log(tmp_path)) == 1
    log = Log(tmp_path, step=10, epochs=0)
    log.write("step", 20, loss=1.0)
    assert [r["step"] for r in read_log(tmp_path)] == [10, 20]


def test_folder_that_is_gone(tmp_path):
    log = Log(tmp_path)
    log.path = tmp_path / "gone" / NAME
    with pytest.raises(InputError, match="cannot be written"):
        log.write("step", 1)


def test_tensorboard_reads_the_events(tmp_path):
    pytest.importorskip("tensorboardX")
    log = Log(tmp_path)
    log.write("step", 10, loss=1.5)
    log._events.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"step/loss" in events.read_bytes()


@pytest.mark.parametrize(
    "line", ["[]", "5", "null", "{}", '{"event": "step", "step": 1}', '{"event": "epoch", "step": 1}', "\x00"]
)
def test_lines_that_no_run_wrote_are_left_out(tmp_path, line):
    Log(tmp_path).write("step", 10, loss=1.0)
    with (tmp_path / NAME).open("a") as file:
        file.write(line + "\n")
    assert [r["step"] for r in read_log(tmp_path)] == [10]
