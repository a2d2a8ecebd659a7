"""The trainer by several ranks, as a person runs it: real processes under mpiexec, killed, resumed, misused."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from npconvnet.data.toy import make_toy
from npconvnet.training.log import read_log
from npconvnet.weights import read_file
from tests.training.distributed.mpi import MPIEXEC

SCRIPT = Path(__file__).parent.parent / "train_imagenet.py"
#: Small, so that rounding stays rounding: at larger rates it decides, after some steps, which of two numbers is the
#: maximum of a window, and from there on runs differ as those of two BLAS do.
RATE = 3e-4


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """100 training pictures."""
    root = tmp_path_factory.mktemp("toy") / "set"
    make_toy(root, seed=1, train_per_class=10, validation_per_class=2)
    return root


def rank(*arguments, script=SCRIPT, count=1):
    """What is started `count` times; several of them are joined by ":"."""
    return ["-n", str(count), sys.executable, str(script), *map(str, arguments)]


def small(toy, output, batch_size, *more, epochs=2):
    return ["--data", toy, "--output", output, "--model", "tiny", "--device", "cpu", "--epochs", epochs,
            "--batch-size", batch_size, *more]  # fmt: skip


def run(*parts):
    """mpiexec with the `parts`; all of its output is in stdout and stderr of what it returns."""
    return subprocess.run([MPIEXEC, *parts], capture_output=True, text=True, check=False, timeout=120)


def trained(ranks, toy, folder, images_a_step, *more, epochs=2):
    """The folder of a finished run of so many ranks, which together take so many images a step."""
    rate = ["--learning-rate", repr(RATE / ranks)]
    done = run(*rank(*small(toy, folder, images_a_step // ranks, *rate, *more, epochs=epochs), count=ranks))
    assert done.returncode == 0, done.stderr
    return folder


def weights(folder, name="last"):
    tensors, _ = read_file(folder / f"{name}.safetensors")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("velocity/")}


def losses(folder):
    return np.array([record["loss"] for record in read_log(folder) if record["event"] == "step"])


def assert_alike(folder, expected, tolerance=1e-5):
    np.testing.assert_allclose(losses(folder), losses(expected), rtol=tolerance)
    found = weights(folder)
    for name, weight in weights(expected).items():
        np.testing.assert_allclose(found[name], weight, rtol=0, atol=tolerance, err_msg=name)
        if name.endswith(".weight"):
            assert np.linalg.norm(found[name] - weight) < tolerance * np.linalg.norm(weight), name


@pytest.fixture(scope="module")
def alone(toy, tmp_path_factory):
    """51 steps of one rank: 17 an epoch, the last of 4 pictures."""
    return trained(1, toy, tmp_path_factory.mktemp("runs") / "alone", 6, epochs=3)


@pytest.fixture(scope="module")
def by_two(toy, tmp_path_factory):
    return trained(2, toy, tmp_path_factory.mktemp("runs") / "two", 6, epochs=3)


def test_two_ranks_do_what_one_does(alone, by_two):
    assert_alike(by_two, alone)


def test_three_ranks_do_what_one_does(toy, alone, tmp_path):
    assert_alike(trained(3, toy, tmp_path / "three", 6, epochs=3), alone)


def test_more_ranks_than_pictures_in_a_batch(toy, tmp_path):
    """68 steps; the last of an epoch is of one picture."""
    assert_alike(trained(3, toy, tmp_path / "three", 3), trained(1, toy, tmp_path / "one", 3))


def test_the_same_bits_run_after_run(toy, by_two, tmp_path):
    again = trained(2, toy, tmp_path / "again", 6, epochs=3)
    for name in ("last", "best"):
        assert (again / f"{name}.safetensors").read_bytes() == (by_two / f"{name}.safetensors").read_bytes()


def test_bfloat16_on_the_wire(toy, by_two, tmp_path):
    rounded = trained(2, toy, tmp_path / "rounded", 6, "--wire", "bfloat16", epochs=3)
    assert_alike(rounded, by_two, 2e-2)
    assert not np.array_equal(losses(rounded), losses(by_two))


def test_leaves_no_shared_memory(toy, tmp_path):
    """MPICH does, where ranks are ended."""
    before = set(Path("/dev/shm").glob("mpich*"))
    assert run(*rank(*small(tmp_path / "nowhere", tmp_path / "run", 4), count=2)).returncode == 2
    deadline = time.monotonic() + 10
    while set(Path("/dev/shm").glob("mpich*")) - before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_leaves_what_one_rank_leaves(alone, by_two):
    """One rank writes, and writes all."""
    assert {path.name for path in by_two.iterdir()} == {path.name for path in alone.iterdir()}
    epochs = [[record["epoch"] for record in read_log(run) if record["event"] == "epoch"] for run in (alone, by_two)]
    assert epochs[0] == epochs[1] == [1, 2, 3]
    steps = [[record["step"] for record in read_log(run) if record["event"] == "step"] for run in (alone, by_two)]
    assert steps[0] == steps[1]
    assert json.loads((by_two / "configuration.json").read_text())["ranks"] == 2


def test_says_what_the_ranks_make_of_batch_and_rate(toy, tmp_path):
    done = run(*rank(*small(toy, tmp_path / "run", 8, "--learning-rate", 0.01, epochs=1), count=2))
    assert done.returncode == 0, done.stderr
    assert "number of ranks: 2; 16 images a step, at a rate of 0.02 at most" in done.stdout
    assert done.stdout.count("final validation error") == 1


# -- when something dies ---------------------------------------------------------------------------------------------


def processes_of(folder):
    """{rank: process} of the trainers that write to `folder`."""
    found: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (path / "cmdline").read_bytes().split(b"\0")
            environment = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(SCRIPT).encode() in arguments and str(folder).encode() in arguments:
            ranks = [entry.partition(b"=")[2] for entry in environment if entry.startswith(b"PMI_RANK=")]
            found |= {int(number): int(path.name) for number in ranks}
    return found


def wait_until(condition, job):
    deadline = time.monotonic() + 60
    while not condition():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def endless(toy, folder, *more):
    """A run by two ranks in its second epoch, with a checkpoint in the middle of it."""
    options = small(toy, folder, 3, "--learning-rate", repr(RATE / 2), "--checkpoint-every", 5, *more, epochs=3)
    job = subprocess.Popen(
        [MPIEXEC, *rank(*options, count=2)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: (folder / "best.safetensors").exists() and in_mid_epoch(folder), job)
    return job


def in_mid_epoch(folder):
    try:
        position = read_file(folder / "last.safetensors")[1]["position"]
    except Exception:  # it is being renamed
        return False
    return position["epoch"] == 1 and position["batch"] > 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
@pytest.mark.parametrize(("victim", "survivors"), [(0, 3), (1, 1)])
def test_a_killed_rank_ends_the_job_and_another_number_goes_on(toy, alone, tmp_path, victim, survivors):
    folder = tmp_path / "killed"
    job = endless(toy, folder)
    process = processes_of(folder)[victim]
    os.kill(process, signal.SIGKILL)
    _, errors = job.communicate(timeout=20)
    assert job.returncode != 0
    assert re.search(rf"rank {victim} \(process {process} on .*\) has died", errors), errors
    assert not processes_of(folder)

    done = run(*rank("--resume", folder, count=survivors))
    assert done.returncode == 0, done.stderr
    assert f"number of ranks: {survivors}; 6 images a step" in done.stdout
    assert_alike(folder, alone)  # with the pictures of that epoch each seen once


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_mpiexec_stops_all_ranks_between_two_steps(toy, alone, tmp_path, number):
    folder = tmp_path / "stopped"
    job = endless(toy, folder)
    job.send_signal(number)
    _, errors = job.communicate(timeout=20)
    assert job.returncode != 0
    assert "Traceback" not in errors
    assert errors.count("go on with: ") == 1
    assert run(*rank("--resume", folder, count=2)).returncode == 0
    assert_alike(folder, alone)


def test_an_error_of_one_rank_ends_all_and_names_it(toy, tmp_path):
    done = run(
        *rank(*small(toy, tmp_path / "run", 4)), ":", *rank(*small(tmp_path / "nowhere", tmp_path / "run", 4))
    )  # fmt: skip
    assert done.returncode == 2
    assert re.search(r"rank 1 on .*: error: .*nowhere: no such folder", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("run/last*"))


def test_an_error_of_all_ranks_is_told_once(tmp_path):
    for arguments in (small(tmp_path / "nowhere", tmp_path / "run", 4), ["--epochs", "none"]):
        done = run(*rank(*arguments, count=3))
        assert done.returncode == 2
        assert done.stderr.count("error: ") == 1, done.stderr


# -- what must be alike ----------------------------------------------------------------------------------------------


def refused(*parts):
    done = run(*parts)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    return next(line for line in done.stderr.splitlines() if "error: " in line)


def test_other_options_are_refused(toy, tmp_path):
    line = refused(
        *rank(*small(toy, tmp_path / "run", 4)), ":", *rank(*small(toy, tmp_path / "run", 5, "--seed", 1, "--no-crop"))
    )
    assert "rank 1 on " in line
    for difference in ("--batch-size (5, not 4)", "--seed (1, not 0)", "--crop (False, not True)"):
        assert difference in line
    without = small(toy, tmp_path / "run", 4)[:-2]
    assert "--batch-size (16, not 4)" in refused(*rank(*small(toy, tmp_path / "run", 4)), ":", *rank(*without))
    assert not (tmp_path / "run").exists()


def test_other_data_are_refused(toy, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(toy, other)
    pictures = sorted((other / "ILSVRC/Data/CLS-LOC/train").rglob("*.JPEG"))
    pictures[3].rename(pictures[3].with_stem("renamed"))
    line = refused(*rank(*small(toy, tmp_path / "run", 4)), ":", *rank(*small(other, tmp_path / "run", 4)))
    assert "it differs in the names or classes of the images" in line


def test_data_that_only_one_could_prepare_are_refused(toy, tmp_path):
    """Its cache is full, or can't be written."""
    options = small(toy, tmp_path / "run", 4)
    line = refused(*rank(*options), ":", "-env", "XDG_CACHE_HOME", "/dev/null/cache", *rank(*options))
    assert "it differs in whether the data are prepared (False, not True)" in line
    assert "names" not in line


def test_other_code_is_refused(toy, tmp_path):
    shutil.copytree(SCRIPT.parent / "npconvnet", tmp_path / "npconvnet", ignore=shutil.ignore_patterns("__pycache__"))
    script = shutil.copy(SCRIPT, tmp_path)
    with (tmp_path / "npconvnet/errors.py").open("a") as file:
        file.write("# changed\n")
    options = small(toy, tmp_path / "run", 4)
    line = refused(*rank(*options), ":", *rank(*options, script=script))
    assert "it differs in npconvnet's code" in line

    changed = tmp_path / "changed.py"
    changed.write_text(SCRIPT.read_text() + "# changed\n")
    both = "-env", "PYTHONPATH", str(SCRIPT.parent)
    line = refused(*both, *rank(*options), ":", *both, *rank(*options, script=changed))
    assert "it differs in npconvnet's code" in line


def test_only_the_first_rank_writes(toy, tmp_path):
    done = run(
        *rank(*small(toy, tmp_path / "first", 4, epochs=1)), ":", *rank(*small(toy, tmp_path / "other", 4, epochs=1))
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "first/last.safetensors").exists()
    assert not (tmp_path / "other").exists()


def test_a_damaged_picture_is_left_out_by_whoever_reads_it(toy, tmp_path, monkeypatch):
    """Four pictures are damaged; every rank's are in the checkpoint and in the log."""
    damaged = tmp_path / "damaged"
    shutil.copytree(toy, damaged)
    names = sorted((damaged / "ILSVRC/Data/CLS-LOC/train").rglob("*.JPEG"))[10:90:20]
    for path in names:
        path.write_bytes(b"no picture")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")  # or they would be left out when it is prepared there
    folder = trained(2, damaged, tmp_path / "run", 6, epochs=1)
    (unreadable,) = [record["images"] for record in read_log(folder) if record["event"] == "unreadable"]
    assert sorted(Path(name).name for name in unreadable) == sorted(path.name for path in names)
