"""The trainer as a person runs it: real processes on a small toy set, killed, resumed, misused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train_imagenet
from npconvnet.data.shards.preparing import prepare
from npconvnet.data.toy import make_toy
from npconvnet.errors import InputError
from npconvnet.parallel import threads
from npconvnet.training.log import read_log
from npconvnet.training.run_folder import RunFolder
from npconvnet.weights import load_network, read_file

SCRIPT = Path(__file__).parent.parent / "train_imagenet.py"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """The processes' own, in which the toy set is prepared by the first of them."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """100 training pictures: 7 batches of 16 an epoch."""
    root = tmp_path_factory.mktemp("toy") / "set"
    make_toy(root, seed=1, train_per_class=10, validation_per_class=2)
    return root


def command(*arguments):
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def small(toy, output, *more):
    return command("--data", toy, "--output", output, "--model", "tiny", "--epochs", 2, "--batch-size", 16, *more)


def run(arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, check=False, **options)


def refused(arguments):
    """The line that a bad call prints last, after checking that no traceback and no warning does."""
    done = run(arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """A run that nothing interrupted: (its folder, what it printed)."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = run(small(toy, folder))
    assert done.returncode == 0, done.stderr
    return folder, done


def assert_same_weights(folder, other):
    for name in ("last.safetensors", "best.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


def test_leaves_everything_in_its_folder(finished):
    folder, done = finished
    names = {path.name for path in folder.iterdir()} - {"tensorboard"}
    assert names == {
        "configuration.json", "log.jsonl", "training_curves.png", "conv1_filters.png",
        "last.safetensors", "previous.safetensors", "best.safetensors",
    }  # fmt: skip
    for picture in ("training_curves.png", "conv1_filters.png"):
        with Image.open(folder / picture) as image:
            assert image.format == "PNG"
    epochs = [record for record in read_log(folder) if record["event"] == "epoch"]
    assert [record["epoch"] for record in epochs] == [1, 2]
    assert f"final validation error: top-1 {epochs[-1]['top1_error']:.2%}" in done.stdout
    assert json.loads((folder / "configuration.json").read_text())["options"]["batch_size"] == 16
    assert done.stderr == ""  # bars are for terminals
    network = load_network(folder / "best.safetensors")
    assert len(network.synsets) == 10
    assert network.preprocessing.crop == 64
    assert 50 < network.preprocessing.mean[0] < 200


def test_same_seed_same_bits(toy, finished, tmp_path):
    assert run(small(toy, tmp_path / "again")).returncode == 0
    assert_same_weights(finished[0], tmp_path / "again")


def test_a_small_data_set_is_prepared_in_the_cache(toy, finished, cache):
    (prepared,) = cache.glob("npconvnet/prepared/set-73-*/*/shards.json")
    assert f"preparing {toy} once, in {prepared.parent}" in finished[1].stdout
    colours = json.loads((finished[0] / "configuration.json").read_text())["colours"]
    assert colours["mean"] == json.loads(prepared.read_text())["mean"]


def test_a_prepared_folder_and_an_interrupted_run_on_it(toy, finished, tmp_path):
    """Begun on the folder, killed, and resumed with the original, which is in the cache."""
    prepare(toy, tmp_path / "prepared", 73, workers=1)
    killed_at("save_best", small(tmp_path / "prepared", tmp_path / "run"))
    done = run(command("--resume", tmp_path / "run", "--data", toy))
    assert done.returncode == 0, done.stderr
    assert_same_weights(finished[0], tmp_path / "run")
    assert "of 10 classes (Kaggle), in float32 on the" in done.stdout
    line = refused(command("--data", tmp_path / "prepared", "--model", "paper", "--output", tmp_path / "paper"))
    assert f"{tmp_path / 'prepared'}: squares of 73 pixels, and this network takes 256" in line
    with (tmp_path / "prepared" / "train-00000.raw").open("r+b") as shard:
        shard.write(b"\x00\xff\x00")
    line = refused(small(tmp_path / "prepared", tmp_path / "damaged"))
    assert "train-00000.raw: damaged" in line


def test_killed_in_mid_epoch_and_resumed_ends_with_the_same_bits(toy, finished, tmp_path):
    folder = tmp_path / "killed"
    process = subprocess.Popen(small(toy, folder, "--checkpoint-every", 2), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    previous = folder / "previous.safetensors"
    while not (previous.exists() and 0 < read_file(previous)[1]["position"]["batch"] < 7):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "best.safetensors").exists()  # it was the first of the two epochs

    done = run(command("--resume", folder))
    assert done.returncode == 0, done.stderr
    assert_same_weights(finished[0], folder)
    assert read_log_without_speed(folder) == read_log_without_speed(finished[0])


#: Runs the trainer, and kills it where it would first use the name.
KILLED_AT = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import train_imagenet
from npconvnet.cli import run
train_imagenet.{name} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
run(train_imagenet.main)
"""


def killed_at(name, arguments):
    code = KILLED_AT.format(folder=str(SCRIPT.parent), name=name)
    killed = run([sys.executable, "-c", code, *arguments[2:]])
    assert killed.returncode == -signal.SIGKILL, killed.stderr


@pytest.mark.parametrize("name", ["Log", "evaluate", "save_best", "draw_filters"])
def test_killed_at_an_awkward_moment_and_resumed_ends_with_the_same_files(toy, finished, tmp_path, name):
    """Before the first step, in the validation, before the best weights are written, and between two pictures."""
    folder = tmp_path / "killed"
    killed_at(name, small(toy, folder))
    done = run(command("--resume", folder))
    assert done.returncode == 0, done.stderr
    assert_same_weights(finished[0], folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in finished[0].iterdir()}
    assert read_log_without_speed(folder) == read_log_without_speed(finished[0])


def test_the_same_bits_on_any_number_of_threads(toy, finished, tmp_path):
    """Whole on one; and begun on two, killed, and resumed on one."""
    done = run(small(toy, tmp_path / "one", "--threads", 1))
    assert done.returncode == 0, done.stderr
    killed_at("save_best", small(toy, tmp_path / "two", "--threads", 2))
    done = run(command("--resume", tmp_path / "two", "--threads", 1))
    assert done.returncode == 0, done.stderr
    for name in ("one", "two"):
        assert_same_weights(finished[0], tmp_path / name)


def test_threads_are_no_part_of_a_run(finished, own_threads):
    """Those of a resumed run are those given now, or the machine's own."""
    for more, count in ([], own_threads), (["--threads", str(own_threads + 1)], own_threads + 1):
        given = train_imagenet.main.make_context("train_imagenet.py", ["--resume", str(finished[0]), *more]).params
        options = train_imagenet._resumed(RunFolder.resume(finished[0]), given, {"resume"})
        assert threads() == count
        assert "threads" not in given | options


def test_threads_that_are_no_number(toy, tmp_path):
    assert "'--threads'" in refused(small(toy, tmp_path / "run", "--threads", 0))
    assert not (tmp_path / "run").exists()


def read_log_without_speed(folder):
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in read_log(folder)]


def test_stopped_by_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(toy, finished, tmp_path):
    folder = tmp_path / "stopped"
    process = subprocess.Popen(small(toy, folder), stderr=subprocess.PIPE, text=True)
    while not read_log(folder):  # the first record is made at step 10, in the second epoch, or after the first
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 130
    assert f"--resume {folder}" in errors
    assert run(command("--resume", folder)).returncode == 0
    assert_same_weights(finished[0], folder)


def test_damaged_last_checkpoint_is_passed_over(finished, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(finished[0], folder)
    last = folder / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1000])
    done = run(command("--resume", folder))
    assert done.returncode == 0, done.stderr
    assert "last.safetensors: damaged" in done.stderr
    assert_same_weights(finished[0], folder)


def test_a_finished_run_has_nothing_left_to_do(finished, tmp_path):
    folder = tmp_path / "finished"
    shutil.copytree(finished[0], folder)
    done = run(command("--resume", folder))
    assert done.returncode == 0
    assert "final validation error" in done.stdout
    assert_same_weights(finished[0], folder)


def test_an_output_folder_that_holds_a_run_is_left_alone(toy, finished):
    folder, _ = finished
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert f"--resume {folder}" in refused(small(toy, folder))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_resumed_run_keeps_its_own_options(finished):
    line = refused(command("--resume", finished[0], "--batch-size", 8, "--seed", 2))
    assert "--batch-size, --seed" in line


def test_nothing_to_resume(tmp_path):
    assert str(tmp_path) in refused(command("--resume", tmp_path))


def test_another_data_set_is_refused_on_resume(finished, tmp_path):
    make_toy(tmp_path / "other", seed=1, train_per_class=3, validation_per_class=2)
    line = refused(command("--resume", finished[0], "--data", tmp_path / "other"))
    assert "training_images" in line


def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(toy, tmp_path):
    folder = tmp_path / "diverging"
    line = refused(small(toy, folder, "--learning-rate", "1e18", "--checkpoint-every", 1))
    assert "diverged" in line
    assert "step" in line
    for path in folder.glob("*.safetensors"):
        assert all(np.isfinite(parameter).all() for parameter in load_network(path).parameters.values())


@pytest.fixture
def torn(toy, tmp_path):
    """The toy set with two unreadable training pictures, 3 and 30, and a strange one."""
    data = tmp_path / "data"
    shutil.copytree(toy, data)
    pictures = sorted(data.rglob("train/**/*.JPEG"))
    pictures[3].write_bytes(pictures[3].read_bytes()[:200])
    pictures[30].write_bytes(b"")
    with Image.open(pictures[50]) as image:
        image.convert("CMYK").save(pictures[50], "JPEG")
    return data, pictures


def test_without_a_cache_unreadable_pictures_are_skipped_and_counted(torn, tmp_path):
    data, pictures = torn
    (tmp_path / "file").touch()
    done = run(small(data, tmp_path / "run", "--epochs", 1), env={**os.environ, "XDG_CACHE_HOME": tmp_path / "file"})
    assert done.returncode == 0, done.stderr
    assert "decoded anew in each epoch" in done.stdout
    assert "2 images could not be read and were skipped" in done.stderr
    for number in (3, 30):
        assert pictures[number].name in done.stderr
    (record,) = [record for record in read_log(tmp_path / "run") if record["event"] == "unreadable"]
    assert len(record["images"]) == 2


def test_no_picture_that_can_be_read(torn, tmp_path):
    data, pictures = torn
    for picture in pictures:
        picture.write_bytes(b"torn")
    assert "not one of the training images can be read" in refused(small(data, tmp_path / "run"))


def test_bad_data_folders(tmp_path):
    assert "none" in refused(command("--data", tmp_path / "none"))
    assert str(tmp_path) in refused(command("--data", tmp_path))
    (tmp_path / "file").touch()
    assert "file" in refused(command("--data", tmp_path / "file"))


def test_options_that_belong_to_another_model(toy, tmp_path):
    assert "--lrn" in refused(small(toy, tmp_path / "run", "--no-lrn"))
    assert not (tmp_path / "run").exists()


def test_output_that_cannot_be_written(toy, tmp_path):
    (tmp_path / "file").touch()
    assert "file" in refused(small(toy, tmp_path / "file"))


def test_gpu_where_there_is_none(toy, tmp_path):
    from npconvnet.backend import why_no_gpu

    if why_no_gpu() is None:
        pytest.skip("this machine has a GPU")
    line = refused(command("--data", toy, "--device", "gpu"))
    assert "--device cpu" in line


def test_without_data_the_first_line_says_that_the_toy_set_is_used(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    process = subprocess.Popen(
        command("--output", tmp_path / "run"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    process.communicate()
    assert "toy set" in line
    assert str(tmp_path / "npconvnet" / "toy") in line


@pytest.mark.parametrize("name", ["log.jsonl", "mine.safetensors"])
def test_an_output_folder_that_holds_something_else_is_left_alone(toy, tmp_path, name):
    (tmp_path / name).write_text("keep me")
    assert "choose another --output" in refused(small(toy, tmp_path))
    assert (tmp_path / name).read_text() == "keep me"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"options": {}}', "\x00\xff"])
def test_damaged_configuration(tmp_path, text):
    (tmp_path / "configuration.json").write_text(text, encoding="latin-1")
    assert "configuration" in refused(command("--resume", tmp_path))


@pytest.mark.parametrize("option", ["--learning-rate", "--momentum", "--weight-decay"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_rates_that_are_no_numbers(toy, tmp_path, option, value):
    assert option in refused(small(toy, tmp_path / "run", option, value))


def test_output_name_that_is_too_long(toy, tmp_path):
    assert "choose another --output" in refused(small(toy, tmp_path / ("x" * 300)))


@pytest.mark.parametrize(
    "change",
    [
        {"options": 5},
        {"options": {}},
        {"options": {"epochs": "x"}},
        {"options": {"batch_size": 0}},
        {"options": {"model": "zzz"}},
        {"options": {"model": None}},
        {"options": {"seed": -1}},
        {"options": {"learning_rate": float("nan")}},
        {"colours": 3},
        {"colours": {"mean": [1], "covariance": [2]}},
        {"data": None},
    ],
    ids=str,
)
def test_configuration_that_makes_no_sense(finished, tmp_path, change):
    """Run in this process: only the reading of the configuration matters."""
    configuration = json.loads((finished[0] / "configuration.json").read_text())
    for name, value in change.items():
        keeps = isinstance(value, dict) and value and name == "options"
        configuration[name] = configuration[name] | value if keeps else value
    (tmp_path / "configuration.json").write_text(json.dumps(configuration))
    with pytest.raises(InputError, match=str(tmp_path)):
        train_imagenet.main.main(["--resume", str(tmp_path)], standalone_mode=False)
