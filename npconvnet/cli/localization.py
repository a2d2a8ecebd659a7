"""Commands that find objects without ever having been shown a box, and count how often they miss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npconvnet.cli.options import (
    device_option,
    figure_option,
    join_on,
    network_of,
    target_option,
    threads_option,
    weights_option,
)
from npconvnet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from npconvnet.localization.graph_cut import CutOptions

#: So many of the best and of the worst cases are drawn.
CASES_SHOWN = 10


def cut_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of the cut that are worth a try; the defaults are those of CutOptions."""
    for option in reversed(
        [
            click.option("--components", type=click.IntRange(1, 50), help="Gaussians in a colour model.  [default: 5]"),
            click.option(
                "--center-prior",
                type=click.FloatRange(0.05),
                help="How far from the middle objects are expected, in half sides; inf: anywhere.  [default: 0.8]",
            ),
            click.option("--smoothness", type=click.FloatRange(0), help="Price of parting two pixels.  [default: 50]"),
            click.option("--neighborhood", type=click.Choice(["4", "8"]), help="Pixels with an edge.  [default: 4]"),
            click.option("--color-space", type=click.Choice(["rgb", "lab"]), help="Of the models.  [default: rgb]"),
            click.option(
                "--iterations", type=click.IntRange(1), help="Cuts, each on models of the last.  [default: 1]"
            ),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the colour models."),
        ]
    ):
        command = option(command)
    return command


def _cut_options(**chosen: Any) -> CutOptions:
    from npconvnet.localization.graph_cut import CutOptions

    given = {name: value for name, value in chosen.items() if value is not None}
    if "neighborhood" in given:
        given["neighborhood"] = int(given["neighborhood"])
    return CutOptions(**given)


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTO...")
@target_option
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="How many classes to look for.")
@click.option("--json", "as_json", is_flag=True, help="Print one object a line; for several photos always.")
@weights_option
@figure_option("The figure.  [default: PHOTO_localize.png; for several photos one sheet, localize.png]")
@cut_options
@device_option
@threads_option
def localize(
    photos: tuple[Path, ...],
    target: str | None,
    top: int,
    as_json: bool,
    weights: Path | None,
    output: Path | None,
    seed: int,
    device: str,
    **cut: Any,
) -> None:
    """Find the object in PHOTO, or in each photo of a folder, by saliency and GraphCut."""
    from npconvnet.data.photos import Photos
    from npconvnet.outputs import require_outputs
    from npconvnet.synsets import find_class
    from npconvnet.visualization.figures.localization import Case, draw_objects, draw_sheet
    from npconvnet.weak_localization.find import find_objects

    chosen = Photos(photos)
    sheet = (output or Path("localize.png")) if chosen.several else None
    figures = {} if sheet else chosen.destinations(output, "_localize.png")
    require_outputs([sheet, *figures.values()], [*chosen.files, weights])
    options = _cut_options(**cut)
    network = network_of(weights, device)
    wanted = [find_class(network.synsets, target)] if target is not None else []
    cases: list[Case] = []
    for batch in chosen.batches(1, "localize"):
        for file, photo in batch:
            with chosen.may_fail():
                found = find_objects(network, photo, 0 if wanted else top, wanted, options, seed)
                for each in found:
                    record = {"photo": str(file), **each.to_json()}
                    click.echo(json.dumps(record, ensure_ascii=False) if as_json or sheet else each)
                if sheet:
                    best = found[0]
                    name = f"{file.name}\n{best.synset.names.partition(',')[0]}"
                    cases.append(Case.of(photo, name, best.found.box, mask=best.found.mask))
                else:
                    titled = [(f"{each.synset.names}: {each.score:.2f}", each.found) for each in found]
                    draw_objects(figures[file], photo, titled, file.name)
                    click.echo(str(figures[file]), err=True)
    if sheet and cases:
        draw_sheet(sheet, [("", cases)])
        click.echo(str(sheet), err=True)
    chosen.finish()


@click.command("evaluate-localization")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="A folder in any layout of ILSVRC, with boxes."
)
@weights_option
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("localization.jsonl"),
    show_default=True,
    help="One JSON object for each image; a rerun goes on with this file.",
)
@figure_option("Best and worst cases.  [default: RESULTS.png]")
@click.option("--processes", type=click.IntRange(1), help="How many work at once.  [default: one for each core]")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a table.")
@cut_options
@device_option
def evaluate_localization(
    data: Path,
    weights: Path | None,
    results: Path,
    output: Path | None,
    processes: int | None,
    as_json: bool,
    seed: int,
    device: str,
    **cut: Any,
) -> None:
    """Print the localisation error on the validation images of a data set, as the ILSVRC challenge counts it."""
    from tqdm import tqdm

    from npconvnet.backend import resolve_device
    from npconvnet.data.ilsvrc import open_dataset
    from npconvnet.data.shards.reading import holds_shards
    from npconvnet.outputs import require_outputs
    from npconvnet.parallel import threads
    from npconvnet.training.distributed.agreement import code_facts, require_same
    from npconvnet.visualization.figures.localization import draw_sheet
    from npconvnet.weak_localization import evaluate

    figure = output or results.with_suffix(".png")
    ranks = join_on(device)
    ranks.from_first(lambda: require_outputs([results, figure], [weights]))  # it alone writes
    run = evaluate.Run(weights, resolve_device(device), _cut_options(**cut), seed, ranks.local_rank)  # type: ignore[arg-type]
    if holds_shards(data):
        raise InputError(f"{data}: prepared squares, and boxes are searched in whole pictures; give the original data")
    network, dataset = run.network(), open_dataset(data)
    tasks = evaluate.tasks(network, dataset)
    require_same(ranks, lambda: code_facts() | run.origin(tasks))
    records = ranks.from_first(lambda: evaluate.Records(results, run.origin(tasks)))
    left = [task for task in tasks if "iou" not in records.found.get(task.example.name, {})]  # new, or unreadable then
    own = left[ranks.share(len(left))]
    workers = min(processes or (1 if run.device == "gpu" else threads()), max(1, len(own)))
    found = ranks.collect(evaluate.evaluate(run, own, workers))
    if not ranks.is_first:
        for _ in found:
            pass
        return
    for note in filter(None, [dataset.note, evaluate.note_on_blacklist(dataset)]):
        click.echo(note, err=True)
    with tqdm(
        total=len(tasks), initial=len(tasks) - len(left), unit="image", desc="localise", leave=False, disable=None
    ) as bar:
        for record in found:
            records.add(record)
            bar.update()
    summary = evaluate.summarise([records.found[task.example.name] for task in tasks])
    draw_sheet(figure, evaluate.best_and_worst(tasks, records.found, CASES_SHOWN))
    click.echo(json.dumps(summary) if as_json else evaluate.as_table(summary))
    click.echo(f"{summary['images']} images; {results}; {figure}", err=True)
    if summary["unreadable"]:
        click.echo(f"{len(summary['unreadable'])} images could not be read and were left out", err=True)
