"""Commands that bring networks of other frameworks in, and take networks out."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npconvnet.cli.options import say_what_is_read
from npconvnet.errors import InputError

if TYPE_CHECKING:
    from npconvnet.network import Network
    from npconvnet.preprocessing import Preprocessing
    from npconvnet.synsets import Synset
    from npconvnet.weights.conventions import Convention
    from npconvnet.weights.opening import Format

_path = click.Path(path_type=Path)
#: What is added where a format does not say how its network is fed, or not always.
_ASSUMED = {
    "torchvision": " (as all of torchvision's)",
    "caffe": " (what the file does not say is as the group's other networks)",
    "onnx": " (an .onnx that npconvnet did not write does not say it: if this is wrong, see --preprocessing)",
}
#: So many names of classes are printed, enough to see whether they are the right ones.
_NAMES_SHOWN = 3
#: What all networks of torchvision are made for. The bundled SqueezeNet sees 227 pixels, and there torchvision's pools
#: would round up where its own round down; on 224 pixels there is nothing to round.
_TORCH_CROP = 224


@click.command("import-weights")
@click.argument("file", type=_path)
@click.argument("out", metavar="OUT.safetensors", type=_path)
@click.option(
    "--format",
    type=click.Choice(["auto", "npconvnet", "matconvnet", "caffe", "torchvision", "onnx"]),
    default="auto",
    show_default=True,
    help="What FILE is, if its contents don't tell.",
)
@click.option(
    "--classes",
    metavar="imagenet|NAMES",
    help="The names of the classes: ImageNet's, or a text file of one a line, such as Caffe's synset_words.txt.",
)
@click.option(
    "--preprocessing",
    "convention",
    type=click.Choice(["torchvision", "caffe", "vgg"]),
    help="Whose networks an .onnx is fed like that does not say it.  [default: a guess]",
)
@click.option("--prototxt", type=_path, help="The architecture of a .caffemodel.  [default: what it holds itself]")
def import_weights(
    file: Path,
    out: Path,
    format: str,
    classes: str | None,
    convention: Convention | None,
    prototxt: Path | None,
) -> None:
    """Write the network in FILE (MatConvNet, Caffe, torchvision, ONNX) as a weight file of npconvnet."""
    from npconvnet.weights import save_network
    from npconvnet.weights.opening import load_network, recognise

    names = Path(classes) if classes not in (None, "imagenet") else None
    _require_output(out, (".safetensors",), file, prototxt, names)
    found: Format = recognise(file) if format == "auto" else format  # type: ignore[assignment]
    say_what_is_read(file)
    network = load_network(file, found, _synsets(classes), prototxt, convention)
    save_network(out, network)
    click.echo(f"{file}: {found}, {network.name}\n{_summary(network)}{_ASSUMED.get(found, '')}\nwritten to {out}")


@click.command("export-onnx")
@click.argument("checkpoint", type=_path)
@click.argument("out", metavar="OUT.onnx", type=_path)
@click.option("--dynamic-batch", is_flag=True, help="Take any number of images at once, instead of one.")
def export_onnx(checkpoint: Path, out: Path, dynamic_batch: bool) -> None:
    """Write the network in CHECKPOINT, or in any other weight file, as ONNX.

    Preprocessing and class names go into the metadata of the file, under "npconvnet".
    """
    from npconvnet.weights import load_network
    from npconvnet.weights.onnx.writer import write_onnx

    _require_output(out, (".onnx",), checkpoint)
    say_what_is_read(checkpoint)
    network = load_network(checkpoint)
    write_onnx(out, network, dynamic_batch)
    click.echo(f"{_summary(network)}\nwritten to {out}")


@click.command("export-torchvision")
@click.argument("checkpoint", type=_path)
@click.argument("out", metavar="OUT.pth|OUT.safetensors", type=_path)
def export_torchvision(checkpoint: Path, out: Path) -> None:
    """Write the network in CHECKPOINT as a state dict that torchvision's AlexNet, VGG or SqueezeNet loads.

    A state dict has no place for preprocessing and class names, so they are printed.
    """
    from npconvnet.weights import load_network
    from npconvnet.weights.torchvision import write_torchvision

    _require_output(out, (".pth", ".safetensors"), checkpoint)
    say_what_is_read(checkpoint)
    network = load_network(checkpoint)
    write_torchvision(out, network)
    click.echo(f"{_summary(network)}\n{_transforms(network.preprocessing)}written to {out}")


def _require_output(out: Path, suffixes: tuple[str, ...], *inputs: Path | None) -> None:
    from npconvnet.outputs import require_outputs

    if out.suffix not in suffixes:
        raise InputError(f"{out}: its name must end in {' or '.join(suffixes)}")
    require_outputs([out], inputs)


def _synsets(classes: str | None) -> tuple[Synset, ...] | None:
    """The names that --classes means, None where it is not given."""
    from npconvnet.synsets import imagenet_synsets

    if classes in (None, "imagenet"):
        return imagenet_synsets() if classes else None
    try:
        lines = Path(classes).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{classes}: cannot be read as a list of class names ({error})") from error
    return tuple(_synset(index, line) for index, line in enumerate(filter(str.strip, lines)))


def _synset(index: int, line: str) -> Synset:
    """That of "n01440764 tench, Tinca tinca", of a wnid alone, or of a name alone."""
    from npconvnet.synsets import Synset

    wnid, *names = line.split(maxsplit=1)
    if re.fullmatch("n[0-9]{8}", wnid):
        return Synset(wnid, names[0].strip() if names else wnid)
    return Synset(f"class{index}", line.strip())


def _summary(network: Network) -> str:
    """What shows a person whether a file was understood: a line each on layers, classes and input."""
    from npconvnet.weights.conventions import in_words

    kinds = Counter(type(node.layer).__name__ for node in network.nodes)
    layers = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    parameters = sum(parameter.size for parameter in network.parameters.values())
    names = [f"{synset.wnid} {synset.names}" for synset in network.synsets[:_NAMES_SHOWN]]
    return (
        f"layers:  {layers}; {parameters:,} parameters\n"
        f"classes: {len(network.synsets)}: {'; '.join(names)}; …\n"
        f"input:   {in_words(network.preprocessing)}"
    )


def _transforms(preprocessing: Preprocessing) -> str:
    """The same in torchvision.transforms, which has nothing for a mean image."""
    if preprocessing.mean_image is not None:
        return ""
    resize = preprocessing.resize if preprocessing.keep_aspect else (preprocessing.resize,) * 2
    filter = f"InterpolationMode.{preprocessing.interpolation.upper()}"
    mean, std = (
        tuple(float(f"{value / 255:.6g}") for value in values)
        for values in (preprocessing.mean_colour, preprocessing.std)
    )
    smaller = "" if preprocessing.crop == _TORCH_CROP else f"  # for its pools; here {preprocessing.crop}"
    crop = f"CenterCrop({_TORCH_CROP})"
    return f"torch:   Resize({resize}, {filter}), {crop}, ToTensor(), Normalize({mean}, {std}){smaller}\n"
