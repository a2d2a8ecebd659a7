"""Commands that show what a network has learnt, and what it sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npconvnet.cli.options import (
    device_option,
    figure_option,
    network_of,
    rule_option,
    target_option,
    threads_option,
    views_option,
    weights_option,
)
from npconvnet.errors import InputError

if TYPE_CHECKING:
    from npconvnet.kernels.cpu.relu import ReLURule
    from npconvnet.preprocessing import ViewCount
    from npconvnet.visualization.class_model import Goal


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTO...")
@target_option
@weights_option
@rule_option("gradient")
@figure_option("The figure; for several photos a folder.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Write the numbers (map, inputs, gradients, scores) to this .npz file; for several photos a folder.",
)
@views_option(10)
@device_option
@threads_option
def saliency(
    photos: tuple[Path, ...],
    target: str | None,
    weights: Path | None,
    rule: ReLURule,
    output: Path | None,
    save: Path | None,
    views: ViewCount,
    device: str,
) -> None:
    """Show which pixels of PHOTO, or of each photo in a folder, the score of a class depends on."""
    from npconvnet.data.photos import Photos
    from npconvnet.outputs import require_outputs, save_arrays
    from npconvnet.synsets import find_class
    from npconvnet.visualization.figures.saliency import draw_saliency
    from npconvnet.visualization.saliency import explain

    chosen = Photos(photos)
    figures = chosen.destinations(output, "_saliency.png")
    numbers = chosen.destinations(save, "_saliency.npz") if save else {}
    require_outputs([*figures.values(), *numbers.values()], [*chosen.files, weights])
    network = network_of(weights, device)
    index = find_class(network.synsets, target) if target is not None else None
    for batch in chosen.batches(max(1, 20 // views), "saliency"):
        found = explain(network, [photo for _, photo in batch], index, views, rule)
        for (file, photo), result in zip(batch, found, strict=True):
            synset = network.synsets[result.target]
            title = f"{synset.names}: class score {result.score:.2f}"
            with chosen.may_fail():
                how = f"{file.name}   rule: {rule}   {views} view{'s' * (views > 1)}   {synset.wnid}   {network.name}"
                draw_saliency(figures[file], photo, result.map, title, how)
                if save:
                    save_arrays(numbers[file], **result.arrays())
                click.echo(f"{file}: {title} ({synset.wnid}); {figures[file]}")
    chosen.finish()


@click.command("class-model")
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    metavar="CLASS",
    help="A class: its name, a part of it, wnid or index; may be repeated.",
)
@weights_option
@click.option(
    "--objective",
    type=click.Choice(["score", "probability"]),
    default="score",
    show_default=True,
    help="What is raised: S_c or ln p_c.",
)
@click.option("--l2", type=float, metavar="λ", help="Price of ‖I‖².  [default: 4e-06; for probability 0]")
@click.option("--step", type=float, help="Grey levels that the first step moves the image.  [default: 5.0]")
@click.option("--iterations", type=int, help="Steps; they shrink to 0.  [default: 200]")
@click.option("--jitter", type=int, help="Shift the image by up to so many pixels, at random.  [default: 0]")
@click.option("--blur", type=float, help="Blur the image after each step, by so many pixels.  [default: 0.0]")
@click.option("--total-variation", type=float, help="Price of Σ|ΔI|, in score per grey level.  [default: 0.0]")
@click.option("--seed", type=int, help="Of the jitter.  [default: 0]")
@click.option(
    "--snapshots",
    type=click.IntRange(0, 12),
    default=0,
    metavar="COUNT",
    help="Also draw so many images of the way, into FILE_snapshots.png.",
)
@figure_option("The figure, FILE.png; FILE.json says how it was made.  [default: class_model_CLASS.png]")
@click.option("--save", type=click.Path(path_type=Path), help="Write images, targets and scores to this .npz file.")
@device_option
@threads_option
def class_model(
    targets: tuple[str, ...],
    weights: Path | None,
    objective: Goal,
    snapshots: int,
    output: Path | None,
    save: Path | None,
    device: str,
    **recipe_options: Any,
) -> None:
    """Draw what the network means by a class: the image whose score, at a given contrast, is highest."""
    from tqdm import tqdm

    from npconvnet.outputs import require_outputs, save_arrays, write_bytes
    from npconvnet.synsets import find_class
    from npconvnet.visualization import class_model as ascent
    from npconvnet.visualization.figures.class_models import draw_class_models, draw_snapshots

    given = {name: value for name, value in recipe_options.items() if value is not None}
    recipe = ascent.Recipe.for_objective(objective, **given)
    network = network_of(weights, device)
    indices = list(dict.fromkeys(find_class(network.synsets, target) for target in targets))
    files = ascent.Files.beside(output or Path(ascent.default_name(network, indices)), snapshots > 0, save)
    require_outputs(files.paths, [weights])
    steps = recipe.iterations * len(indices)
    with tqdm(total=steps, unit="step", desc="class-model", leave=False, delay=1, disable=None) as bar:
        models = ascent.class_models(network, indices, recipe, snapshots, bar.update)
    record = ascent.record(network, weights.name if weights else "bundled", recipe, models)
    metadata = {"Software": "npconvnet", "npconvnet": json.dumps(record)}
    draw_class_models(files.figure, network, models, recipe, metadata)
    write_bytes(files.record, json.dumps(record, ensure_ascii=False, indent=2).encode())
    if files.snapshots:
        draw_snapshots(files.snapshots, network, models, recipe, metadata)
    if files.numbers:
        save_arrays(files.numbers, **ascent.to_arrays(models))
    for entry in record["class_models"]:
        click.echo(
            f"{entry['name']} ({entry['wnid']}): score {entry['score']:.2f}, probability {entry['probability']:.2%}, "
            f"top-1: {entry['top1']['name']}"
        )
    click.echo("; ".join(map(str, files.paths)), err=True)


@click.command()
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--layer", help="The layer of the unit.  [default: the class scores]")
@click.option(
    "--unit",
    metavar="NUMBER|strongest",
    help="A channel of the layer, taken where it is strongest.  [default: the strongest of all]",
)
@target_option
@weights_option
@figure_option("The figure.  [default: PHOTO_compare.png]")
@click.option("--save", type=click.Path(path_type=Path), help="Write input and reconstructions to this .npz file.")
@click.option("--json", "as_json", is_flag=True, help="Print an object instead of a table.")
@device_option
@threads_option
def compare(
    photo: Path,
    layer: str | None,
    unit: str | None,
    target: str | None,
    weights: Path | None,
    output: Path | None,
    save: Path | None,
    as_json: bool,
    device: str,
) -> None:
    """Send a unit back to PHOTO by gradient, DeconvNet and guided backpropagation, and show where the three part."""
    from npconvnet.backend import to_device
    from npconvnet.data.image import read_image
    from npconvnet.outputs import require_outputs, save_arrays
    from npconvnet.synsets import find_class
    from npconvnet.visualization.compare import compare as send_back
    from npconvnet.visualization.deconvnet import find_unit
    from npconvnet.visualization.figures.comparison import draw_comparison

    figure = output or Path(f"{photo.stem}_compare.png")
    require_outputs([figure, save], [photo, weights])
    network = network_of(weights, device)
    is_class = layer in (None, network.last)
    if target is not None and (unit or not is_class):
        raise InputError("--target names a class score; leave out --layer and --unit, or --target")
    if target is not None:
        unit = str(find_class(network.synsets, target))
    x = to_device(network.preprocess([read_image(photo)]), network.device)
    found = send_back(network, x, find_unit(network, x, layer, unit or "strongest"))
    name = f"{network.synsets[found.unit.channel].names} ({found.unit})" if is_class else str(found.unit)
    draw_comparison(figure, network.preprocessing.picture(x[0]), found, f"{name}: {found.activation:.4g}")
    if save:
        save_arrays(save, input=x, **found.reconstructions)
    if not found.reconstructions["gradient"].any():
        click.echo(f"{found.unit} is silent for this photo: by the gradient nothing comes back", err=True)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.table())
    click.echo(f"{name}: {found.activation:.4g}; {figure}", err=True)


@click.command("sanity-check")
@click.argument("photo", type=click.Path(path_type=Path))
@target_option
@weights_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@figure_option("The figure.  [default: PHOTO_sanity_check.png]")
@click.option("--save", type=click.Path(path_type=Path), help="Write stages, correlations and maps to this .npz file.")
@device_option
@threads_option
def sanity_check(
    photo: Path,
    target: str | None,
    weights: Path | None,
    seed: int,
    output: Path | None,
    save: Path | None,
    device: str,
) -> None:
    """Randomise the network layer by layer, and show whether the maps of PHOTO look at class and weights at all."""
    from tqdm import tqdm

    from npconvnet.backend import to_device
    from npconvnet.data.image import read_image
    from npconvnet.outputs import require_outputs, save_arrays
    from npconvnet.synsets import find_class
    from npconvnet.visualization import randomization
    from npconvnet.visualization.figures.randomization import draw_sanity_check

    figure = output or Path(f"{photo.stem}_sanity_check.png")
    require_outputs([figure, save], [photo, weights])
    network = network_of(weights, device)
    x = to_device(network.preprocess([read_image(photo)]), network.device)
    index = find_class(network.synsets, target) if target is not None else int(network.scores(x).argmax())
    stages = randomization.stage_names(network)
    maps = randomization.randomize_often(network, x, index, seed)
    bar = tqdm(
        maps, total=randomization.RUNS * len(stages), unit="stage", desc="sanity-check", leave=False, disable=None
    )
    check = randomization.summarize(stages, randomization.class_maps(network, x, index), bar)
    title = f"{photo.name}: {network.synsets[index].names}"
    draw_sanity_check(figure, network.preprocessing.picture(x[0]), check, title)
    if save:
        save_arrays(save, **check.to_arrays())
    click.echo(check.table())
    click.echo(f"{network.synsets[index].names}: {figure}", err=True)


@click.command("top-patches")
@click.option("--layer", required=True, help="The layer whose feature maps are looked at.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="ILSVRC in any layout, or prepared: its validation images are scanned; or a folder of nothing but pictures.",
)
@click.option(
    "--unit",
    "units",
    type=click.IntRange(0),
    multiple=True,
    metavar="NUMBER",
    help="A feature map; may be repeated.  [default: the six whose pictures all excite them most]",
)
@click.option("--top", type=click.IntRange(1), default=9, show_default=True, help="How many pictures for each map.")
@rule_option("deconvnet")
@weights_option
@figure_option("The figure.  [default: LAYER_top_patches.png]")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Write units, names, positions, activations, boxes, patches and reconstructions to this .npz file.",
)
@device_option
@threads_option
def top_patches(
    layer: str,
    data: Path,
    units: tuple[int, ...],
    top: int,
    rule: ReLURule,
    weights: Path | None,
    output: Path | None,
    save: Path | None,
    device: str,
) -> None:
    """Find the pictures that excite a feature map most, and show what they have in common."""
    from tqdm import tqdm

    from npconvnet.data.loader import Loader
    from npconvnet.outputs import as_file_name, require_outputs, save_arrays
    from npconvnet.visualization import top_patches as finding
    from npconvnet.visualization.figures.top_patches import draw_top_patches

    network = network_of(weights, device)
    finding.require_maps(network, layer, units)
    figure = output or Path(f"{as_file_name(layer)}_top_patches.png")
    require_outputs([figure, save], [weights])
    pictures, note = finding.pictures_to_scan(data, network.preprocessing)
    if note:
        click.echo(note, err=True)
    loader = Loader(pictures, finding.BATCH, network.device)
    batches = tqdm(loader.in_order(), total=loader.batches, unit="batch", desc="top-patches", leave=False, disable=None)
    ranking = finding.rank(network, layer, batches, top)
    if not ranking.numbers.size:
        raise InputError(f"{data}: not one of the {len(pictures)} pictures can be read")
    chosen = list(dict.fromkeys(units)) or ranking.strongest_maps()
    found = {unit: list(finding.top_patches(network, layer, pictures, ranking, unit, rule)) for unit in chosen}
    every = [patch for patches in found.values() for patch in patches]
    draw_top_patches(
        figure,
        {finding.name_of(network, layer, unit): patches for unit, patches in found.items()},
        f"What excites {layer} of {network.name}",
        f"left: reconstructions ({rule})   right: patches (beyond: mean colour)",
    )
    if save:
        save_arrays(save, **finding.to_arrays(every))
    click.echo(f"{'map':>5} {'row':>4} {'col':>4}  activation  picture")
    for patch in every:
        click.echo(f"{patch.unit:5} {patch.row:4} {patch.column:4}  {patch.activation:10.4g}  {patch.name}")
    click.echo(f"{figure}: {layer}, {len(found)} feature map{'s' * (len(found) > 1)}, {len(pictures)} pictures scanned")
    if loader.unreadable:
        names = ", ".join(sorted(loader.unreadable))
        click.echo(f"left out, as they can't be read ({len(loader.unreadable)}): {names}", err=True)


@click.command()
@weights_option
@figure_option("The figure.  [default: LAYER_filters.png]")
def filters(weights: Path | None, output: Path | None) -> None:
    """Draw the filters of the first layer, which reads the colours themselves."""
    from npconvnet.layers import Conv2d
    from npconvnet.network import INPUT
    from npconvnet.outputs import as_file_name, require_outputs
    from npconvnet.visualization.figures.training import draw_filters

    network = network_of(weights, "cpu")
    first = [node for node in network.nodes if INPUT in node.inputs and isinstance(node.layer, Conv2d)]
    if not first:
        raise InputError(
            f"no convolution of {network.name} reads the image itself; its filters can't be shown as colours"
        )
    name, weight = first[0].name, first[0].layer.parameters["weight"]
    figure = output or Path(f"{as_file_name(name)}_filters.png")
    require_outputs([figure], [weights])
    count, height, width, _ = weight.shape
    draw_filters(figure, weight, f"{network.name}: the {count} filters of {name}, {height}×{width} pixels")
    click.echo(f"{figure}: the {count} filters of {name}")
