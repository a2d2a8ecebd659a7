"""Times the way from image files to network input, part by part, and the whole beside PyTorch's DataLoader.

    python bench/data.py --against torch

JPEG files of 500 × 375 are cut from the photographs of the package, prepared as raw and as JPEG shards, read, and fed:
shuffled batches of 224 × 224, with random crops, reflections, colours and zeroed rectangles, normalised, in float32.
The DataLoader does the same with Pillow and torch tensors, in as many processes as npconvnet has threads, once from the
files and once from the raw shards mapped into memory. The feeds take turns; medians of whole epochs are printed.

    ratio = images/s of npconvnet's raw feed ÷ images/s of the DataLoader from files        > 1: npconvnet is faster

The limit is what the memory allows: each picture of the raw feed is read and written once by the reader, and read and
written as float32 by `augment`. The records of a large data set are simulated: files without content behind a real
index, on which the time and the memory to begin an epoch are measured.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, Python looks in bench/ only

from bench.measuring import as_line, medians_in_turns, require_installed, threads_option, versions
from npconvnet.backend import Device, module_of, resolve_device
from npconvnet.cli import run
from npconvnet.cli.options import device_option
from npconvnet.data.augment import Augmentation, ColourStatistics
from npconvnet.data.ilsvrc import open_dataset
from npconvnet.data.image import decoder_name, read_image
from npconvnet.data.loader import Loader
from npconvnet.data.shards.index import Index
from npconvnet.data.shards.manifest import MANIFEST, File, Manifest, Shard, checksum, index_name, shard_name
from npconvnet.data.shards.preparing import prepare
from npconvnet.data.shards.reading import Shards, open_prepared
from npconvnet.parallel import threads, use_threads
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset

ASSETS = Path(__file__).resolve().parents[1] / "npconvnet" / "assets"
WIDTH, HEIGHT, QUALITY = 500, 375, 92
PREPROCESSING = Preprocessing(256, 224, mean=(124.0, 116.0, 104.0), std=(58.0, 57.0, 57.0))
BATCH = 128
RAW, JPEG = "npconvnet raw shards", "npconvnet JPEG shards"
FILES, MAPPED = "torch DataLoader, files", "torch DataLoader, raw shards"
#: Bytes that one picture of the raw feed moves: its square is read and written, its crop read and written as float32.
MOVED = 2 * PREPROCESSING.resize**2 * 3 + PREPROCESSING.crop**2 * 3 * (1 + 4)
#: How many records the simulated data sets have.
SIMULATED = (12_800, 128_000, 1_281_167)
#: Of a simulated shard.
RECORDS = 4096


def make_photos(folder: Path, photos: int) -> None:
    """So many JPEG files in two class folders: parts of the package's photographs, each another one."""
    whole = [Image.fromarray(read_image(path)) for path in sorted(ASSETS.glob("*.jpg"))]
    rng = np.random.default_rng(0)
    for number in tqdm(range(photos), "photos", unit="photo", leave=False):
        photo = whole[number % len(whole)]
        width, height = (int(side * rng.uniform(0.6, 1)) for side in photo.size)
        left, top = int(rng.uniform(0, photo.width - width)), int(rng.uniform(0, photo.height - height))
        part = photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        path = folder / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.save(path, quality=QUALITY)


def images_per_second(work: Callable[[], object], images: int) -> float:
    """Of work that is done once."""
    began = time.perf_counter()
    work()
    return images / (time.perf_counter() - began)


# ---- Competitors ----------------------------------------------------------------------------------------------------


def read_all(shards: Shards) -> None:
    """Every picture once, in a random order, by this thread."""
    square = np.empty((shards.size, shards.size, 3), np.uint8)
    for number in np.random.default_rng(0).permutation(len(shards)).tolist():
        shards.read(number, square)


def npconvnet_epochs(shards: Shards, components: Any, device: Device) -> Callable[[], None]:
    """One shuffled epoch by npconvnet at each call, to arrays on `device`."""
    loader, epochs = Loader(shards, BATCH, device), count()

    def epoch() -> None:
        number = next(epochs)
        for batch in loader.epoch(0, number):
            views = Augmentation().draw(0, number, batch.numbers, PREPROCESSING, components)
            PREPROCESSING.apply(batch.squares, views)
        if device == "gpu":
            module_of(device).cuda.Device().synchronize()

    return epoch


def torch_epochs(pictures: Any, workers: int, device: Device) -> Callable[[], None]:
    """One shuffled epoch by PyTorch's DataLoader at each call, to tensors on `device`."""
    import torch

    from bench.torch_data_peer import data_loader

    batches = data_loader(pictures, BATCH, workers, pinned=device == "gpu")

    def epoch() -> None:
        for x, _ in batches:
            if device == "gpu":
                x.to("cuda", non_blocking=True)
        if device == "gpu":
            torch.cuda.synchronize()

    return epoch


# ---- The limit, and a data set of a million -------------------------------------------------------------------------


def memory_bandwidth(at_once: int) -> float:
    """Bytes per second that `at_once` threads read and write together, copying."""
    buffers = [np.ones((2, 2**26), np.uint8) for _ in range(at_once)]

    def copy(buffer: Any) -> None:
        for _ in range(8):
            buffer[1] = buffer[0]

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(copy, buffers))  # once, for the pages and the threads
        began = time.perf_counter()
        list(pool.map(copy, buffers))
    return at_once * 8 * 2**27 / (time.perf_counter() - began)


def simulate(folder: Path, records: int) -> None:
    """A prepared data set of `records` black training pictures, whose raw shards take no room on the disk."""
    size, synsets = PREPROCESSING.resize, tuple(Synset(f"n{label:08d}", f"class {label}") for label in range(1000))
    length = size**2 * 3
    black = checksum(bytes(length))
    names = [b"train/n%08d/n%08d_%08d.JPEG" % (number % 1000, number % 1000, number) for number in range(records)]
    index = Index(
        labels=np.arange(records, dtype=np.int32) % len(synsets),
        sizes=np.tile(np.array([WIDTH, HEIGHT], np.int32), (records, 1)),
        lengths=np.full(records, length, np.int32),
        checksums=np.full(records, int(black, 16), np.uint64),
        names=np.frombuffer(b"".join(names), np.uint8),
        name_ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        boxes=np.zeros((0, 5), np.int32),
        box_ends=np.zeros(records, np.int64),
    )
    empty = Index.of([])
    indices = {"train": index.to_bytes(), "validation": empty.to_bytes()}
    images = [min(RECORDS, records - first) for first in range(0, records, RECORDS)]
    manifest = Manifest(
        size=size,
        encoding="raw",
        source="",
        layout="unpacked",
        note="",
        blacklist=frozenset(),
        decoder="",
        synsets=synsets,
        colours=ColourStatistics(np.zeros(3), np.eye(3)),
        unreadable=0,
        # The checksum of a whole shard is for `prepare --verify`.
        shards={"train": tuple(Shard(File(n * length, ""), n) for n in images), "validation": ()},
        files={f"{split}.safetensors": File(len(data), checksum(data)) for split, data in indices.items()},
    )
    for number, n in enumerate(images):
        with (folder / shard_name("train", number, "raw")).open("wb") as shard:
            shard.truncate(n * length)
    (folder / index_name("train")).write_bytes(indices["train"])
    (folder / index_name("validation")).write_bytes(indices["validation"])
    (folder / MANIFEST).write_bytes(manifest.to_bytes())


def beginning(folder: Path) -> dict[str, float]:
    """Seconds from nothing to the first batch of an epoch, and to that of the next; what stays and the most in MiB."""
    began = time.perf_counter()
    loader, _ = _begin(folder, epoch=0)
    opened = time.perf_counter()
    next(loader.epoch(0, 1))
    shuffled = time.perf_counter()
    del loader
    tracemalloc.start()
    begun = _begin(folder, epoch=0)  # (with the memory for batches)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del begun
    return {
        "start_seconds": opened - began,
        "next_epoch_seconds": shuffled - opened,
        "held_mib": held / 2**20,
        "peak_mib": peak / 2**20,
    }


def _begin(folder: Path, epoch: int) -> tuple[Loader, Iterator[Any]]:
    loader = Loader(open_prepared(folder).train, BATCH)
    batches = loader.epoch(0, epoch)
    next(batches)
    return loader, batches


# ---- The report -----------------------------------------------------------------------------------------------------


def measure(against: str, photos: int, repetitions: int, device: Device) -> dict[str, Any]:
    """The report, of so many photos."""
    at_once = threads()
    with tempfile.TemporaryDirectory(prefix="npconvnet-bench-") as place:
        root = Path(place)
        make_photos(root / "photos", photos)
        dataset = open_dataset(root / "photos")
        images = len(dataset.train) + len(dataset.validation)
        folders = {RAW: root / "raw", JPEG: root / "jpeg"}
        size = PREPROCESSING.resize
        preparing = {
            RAW: images_per_second(lambda: prepare(root / "photos", folders[RAW], size, "raw", at_once), images),
            JPEG: images_per_second(lambda: prepare(root / "photos", folders[JPEG], size, "jpeg", at_once), images),
        }
        prepared = {name: open_prepared(folder) for name, folder in folders.items()}
        trains = {name: found.train for name, found in prepared.items()}
        reading = {name: images_per_second(partial(read_all, train), len(train)) for name, train in trains.items()}
        components = prepared[RAW].manifest.colours.components
        feeds = {name: npconvnet_epochs(train, components, device) for name, train in trains.items()}
        if against == "torch":
            from bench.torch_data_peer import PhotoFiles, SquaresInMemory

            shards = [np.memmap(path, np.uint8, "r") for path in sorted(folders[RAW].glob("train-*.raw"))]
            squares = np.concatenate(shards).reshape(-1, size, size, 3)
            feeds[FILES] = torch_epochs(PhotoFiles(dataset.train, PREPROCESSING), at_once, device)
            feeds[MAPPED] = torch_epochs(SquaresInMemory(squares, trains[RAW].labels, PREPROCESSING), at_once, device)
        medians = medians_in_turns(feeds, repetitions, "feeds")
        beginnings = {}
        for records in tqdm(SIMULATED, "simulated data sets", leave=False):
            folder = root / f"simulated-{records}"
            folder.mkdir()
            simulate(folder, records)
            beginnings[records] = beginning(folder)
    bandwidth = memory_bandwidth(at_once)
    packages = [name for name in ("torch", "simplejpeg") if find_spec(name)]
    feeding = {name: len(dataset.train) / median for name, median in medians.items()}
    return {
        "photos": photos,
        "repetitions": repetitions,
        "versions": {**versions(*packages), "decoder": decoder_name(), "device": device},
        "prepare": preparing,
        "read_by_one_core": reading,
        "feed": feeding,
        "bandwidth_bytes_per_second": bandwidth,
        "limit": bandwidth / MOVED,
        "ratio": feeding[RAW] / feeding[FILES] if FILES in feeding else None,
        "begin": beginnings,
    }


def as_text(report: dict[str, Any]) -> str:
    """The report as aligned tables."""
    lines = [f"{report['photos']} photos of {WIDTH} × {HEIGHT}, medians of {report['repetitions']} epochs"]
    lines += [as_line(report["versions"])]
    titles = {"prepare": "prepare", "read_by_one_core": "read, by one core", "feed": "the whole feed"}
    for part, title in titles.items():
        lines += ["", title]
        lines += [f"  {name:<30} {speed:>9.0f} images/s" for name, speed in report[part].items()]
    bandwidth = f"limit by memory, {report['bandwidth_bytes_per_second'] / 1e9:.1f} GB/s"
    lines += [f"  {bandwidth:<30} {report['limit']:>9.0f} images/s"]
    if report["ratio"]:
        lines += [f"  {'ratio':<30} {report['ratio']:>9.2f}"]
    lines += ["", f"{'records':>10}  {'to first batch':>15}  {'next epoch':>11}  {'held MiB':>9}  {'peak MiB':>9}"]
    for records, found in report["begin"].items():
        lines.append(
            f"{int(records):>10,}  {found['start_seconds']:>13.2f} s  {found['next_epoch_seconds']:>9.2f} s  "
            f"{found['held_mib']:>9.0f}  {found['peak_mib']:>9.0f}"
        )
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--against", type=click.Choice(["torch", "none"]), default="none", help="Whom to run beside.")
@click.option("--photos", type=click.IntRange(20), default=1500, help="Files that are prepared and fed.")
@click.option("--repetitions", type=click.IntRange(1), default=5, help="Timed epochs.")
@device_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def main(against: str, photos: int, repetitions: int, device: Any, threads: int | None, as_json: bool) -> None:
    """Time preparing, reading and feeding, beside PyTorch's DataLoader if asked."""
    if against == "torch":
        require_installed("--against torch", "torch", "pip install torch==2.13.0")
    use_threads(threads)
    report = measure(against, photos, repetitions, resolve_device(device))
    click.echo(json.dumps(report, indent=2) if as_json else as_text(report))


if __name__ == "__main__":
    run(main)
