"""State dicts of torchvision and timm, beside torchvision's own networks: the same scores of the same picture."""

import errno
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import npconvnet
from npconvnet.errors import InputError
from npconvnet.models import MODELS
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset
from npconvnet.weights import bundled_network, load_network
from npconvnet.weights.conventions import torchvision_preprocessing
from npconvnet.weights.torchvision import read_torchvision, write_torchvision
from tests.conftest import assert_close
from tests.weights.torchvision.test_torch_file import mutated

#: Our names of torchvision's networks.
OURS = {
    "alexnet": "alexnet_owt",
    **{name: name for name in ("vgg11", "vgg13", "vgg16", "vgg19", "squeezenet1_0", "squeezenet1_1")},
}
CLASSES = 5
ASSETS = Path(npconvnet.__file__).parent / "assets"


# -- torchvision's networks ------------------------------------------------------------------------------------------


def draw(model, torch):
    """Weights that keep the scale of the activations, and biases, so that every one of them shows in the scores."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 50
        torch.nn.init.normal_(parameter, 0, (2 / fan_in) ** 0.5, generator=generator)
    return model.eval()


def narrow(model, torch, factor=8):
    """torchvision's module, its layers replaced by narrower ones with random weights."""
    layers = [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "weight")]
    for name, layer in layers:
        outputs = CLASSES if layer is layers[-1][1] else layer.weight.shape[0] // factor
        if isinstance(layer, torch.nn.Conv2d):
            inputs = 3 if layer is layers[0][1] else layer.in_channels // factor
            new = torch.nn.Conv2d(inputs, outputs, layer.kernel_size, layer.stride, layer.padding)
        elif isinstance(layer, torch.nn.Linear):
            new = torch.nn.Linear(layer.in_features // factor, outputs)
        else:
            new = torch.nn.BatchNorm2d(outputs)
        model.set_submodule(name, new)
    return draw(model, torch)


@pytest.fixture
def make(torchvision, torch):
    """`make(name)` is torchvision's network of that name, an eighth as wide."""

    def narrowed(name):
        with torch.device("meta"):
            model = getattr(torchvision.models, name)()
        return narrow(model, torch)

    return narrowed


@pytest.fixture
def photo():
    """The centre square of a photograph: of others, torchvision rounds the longer side to whole pixels."""
    image = Image.open(ASSETS / "chelsea.jpg")
    left = (image.width - image.height) // 2
    return image.crop((left, 0, left + image.height, image.height))


def torchvision_scores(model, image, torch):
    """By the transforms that torchvision's documentation gives for all these networks."""
    assert image.width == image.height
    image = image.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    x = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        return model(((x - mean[:, None, None]) / std[:, None, None])[None]).numpy()


def our_scores(network, image):
    return network.scores(network.preprocess([np.array(image)]))


# -- in --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_scores_of_the_same_photo_are_torchvisions(name, make, photo, torch, tmp_path):
    model = make(name)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    network = read_torchvision(tmp_path / "w.pth")
    assert network.model == OURS[name]
    assert network.preprocessing == torchvision_preprocessing(224)
    assert len(network.synsets) == CLASSES
    expected = torchvision_scores(model, photo, torch)
    assert np.ptp(expected) > 0.1 * np.abs(expected).max()
    assert_close(our_scores(network, photo), expected)


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_squeezenet_in_its_real_size(name, torchvision, photo, torch, tmp_path):
    model = draw(getattr(torchvision.models, name)(), torch)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    network = read_torchvision(tmp_path / "w.pth")
    assert network.options == MODELS[name]().options
    assert_close(our_scores(network, photo), torchvision_scores(model, photo, torch))


@pytest.mark.parametrize("name", OURS)
def test_the_widths_are_torchvisions(name, make, torch, tmp_path):
    torch.save(make(name).state_dict(), tmp_path / "w.pth")
    options, published = read_torchvision(tmp_path / "w.pth").options, MODELS[OURS[name]]().options
    assert options["widths"] == [width // 8 for width in published["widths"]]
    assert options.get("hidden", 512) == published.get("hidden", 4096) // 8


def assert_same_network(network, other):
    assert (network.model, network.options) == (other.model, other.options)
    assert network.parameters.keys() == other.parameters.keys()
    for name, parameter in network.parameters.items():
        assert parameter.dtype == np.float32
        np.testing.assert_array_equal(parameter, other.parameters[name])


def read_either_way(path, monkeypatch):
    """What comes of `path` with PyTorch, which has to be what comes of it without."""
    network = read_torchvision(path)
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "torch", None)
        assert_same_network(read_torchvision(path), network)
    return network


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("form", ["zip", "legacy", "checkpoint", "safetensors"])
def test_every_form_of_file_gives_the_same_network(form, prefix, make, torch, tmp_path, monkeypatch):
    state = OrderedDict((f"{prefix}{name}", tensor) for name, tensor in make("alexnet").state_dict().items())
    path = tmp_path / "w"
    if form == "safetensors":
        safetensors.numpy.save_file({name: tensor.numpy() for name, tensor in state.items()}, path)
    else:
        value = {"epoch": 90, "best": torch.tensor(56.5), "state_dict": state} if form == "checkpoint" else state
        torch.save(value, path, _use_new_zipfile_serialization=form != "legacy")
    network = read_either_way(path, monkeypatch)
    h, w, c = 3, 4, 5
    np.testing.assert_array_equal(network.parameters["conv2.weight"][..., c], state[f"{prefix}features.3.weight"][:, c])
    np.testing.assert_array_equal(
        network.parameters["fc6.weight"][:, (h * 6 + w) * 32 + c],
        state[f"{prefix}classifier.1.weight"][:, (c * 6 + h) * 6 + w],
    )


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floating_point_numbers_become_float32(dtype, form, make, torch, tmp_path, monkeypatch):
    state = make("squeezenet1_1").to(getattr(torch, dtype)).state_dict()
    path = tmp_path / "w"
    if form == "pth":
        torch.save(state, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, path)
    network = read_either_way(path, monkeypatch)
    expected = state["features.0.weight"].float().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(network.parameters["conv1.weight"], expected)


def timm_vgg(model, torch):
    """timm's VGG: the same features, then convolutions of 7×7 and of 1×1, an average, and the classifier."""

    def as_convolution(linear, window):
        outputs, inputs = linear.weight.shape
        convolution = torch.nn.Conv2d(inputs // window**2, outputs, window)
        convolution.weight.data = linear.weight.data.reshape(outputs, -1, window, window)
        convolution.bias.data = linear.bias.data
        return convolution

    linear6, relu6, drop6, linear7, relu7, _, linear8 = model.classifier
    pre_logits = {"fc1": as_convolution(linear6, 7), "act1": relu6, "drop": drop6}
    pre_logits |= {"fc2": as_convolution(linear7, 1), "act2": relu7}
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    parts = {
        "features": model.features,
        "pre_logits": torch.nn.Sequential(OrderedDict(pre_logits)),
        "head": torch.nn.Sequential(OrderedDict({"global_pool": pool, "fc": linear8})),
    }
    return torch.nn.Sequential(OrderedDict(parts)).eval()


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_vgg_by_timms_names(name, make, photo, torch, tmp_path):
    model = timm_vgg(make(name), torch)
    assert {"features.0.weight", "pre_logits.fc2.weight", "head.fc.bias"} <= model.state_dict().keys()
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({name: tensor.numpy() for name, tensor in model.state_dict().items()}, path)
    network = read_torchvision(path)
    assert network.model == name
    assert_close(our_scores(network, photo), torchvision_scores(model, photo, torch))


# -- refused ---------------------------------------------------------------------------------------------------------


def test_batch_normalisation_is_refused(make, torch, tmp_path):
    torch.save(make("vgg11_bn").state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: has batch normalisation \('features\.1\.running_mean'\)"):
        read_torchvision(tmp_path / "w.pth")


def small_state():
    """A state dict of AlexNet with one filter in each convolution, and two features."""
    network = MODELS["alexnet_owt"](classes=2, widths=(1, 1, 1, 1, 1), hidden=2)
    network.initialize(np.random.default_rng(0))
    return network


@pytest.fixture
def state(tmp_path):
    write_torchvision(tmp_path / "small.safetensors", small_state())
    return safetensors.numpy.load_file(tmp_path / "small.safetensors")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"features.3.bias": None}, r"the nearest is alexnet, without 'features\.3\.bias' \(1 in all\)$"),
        ({"features.4.bias": np.zeros(1)}, r"the nearest is alexnet, with 'features\.4\.bias' \(1 in all\)$"),
        (
            {"features.3.weight": np.zeros((1, 1, 3, 3))},
            r"features\.3\.weight is \(1, 1, 3, 3\), and should be \(1, 1, 5, 5\)",
        ),
        ({"features.3.weight": np.zeros((1, 2, 5, 5))}, r"features\.3\.weight is \(1, 2, 5, 5\), and should be"),
        ({"features.0.weight": np.zeros((1, 4, 11, 11))}, r"features\.0\.weight is \(1, 4, 11, 11\), and should be"),
        ({"features.0.weight": np.zeros(())}, r"features\.0\.weight is \(\), which is no layer"),
        ({"features.0.weight": np.zeros((10**6, 1, 1, 1))}, r"features\.0\.weight is \(1000000, 1, 1, 1\)"),
        ({"features.3.weight": np.zeros((10**6, 0, 5, 5))}, r"features\.3\.weight is \(1000000, 0, 5, 5\), which is"),
        ({"features.0.bias": np.zeros((1, 1))}, r"features\.0\.bias is \(1, 1\), and should be \(1,\)"),
        ({"classifier.1.weight": np.zeros((2, 25))}, r"classifier\.1\.weight is \(2, 25\), and should be \(2, 36\)"),
        (
            {"classifier.6.weight": np.zeros((0, 2)), "classifier.6.bias": np.zeros(0)},
            r"classifier\.6\.weight is \(0, 2\), which is no layer",
        ),
        ({"features.0.weight": np.zeros((1, 3, 11, 11), np.int64)}, r"features\.0\.weight"),
    ],
)
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_tensors_that_do_not_fit_are_named(changes, match, form, state, torch, tmp_path):
    path = tmp_path / f"w.{form}"
    changed = {name: value for name, value in (state | changes).items() if value is not None}
    if form == "safetensors":
        safetensors.numpy.save_file(changed, path)
    else:
        torch.save({name: torch.from_numpy(np.array(value)) for name, value in changed.items()}, path)
    with pytest.raises(InputError, match=match) as refusal:
        read_torchvision(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


def test_other_networks_are_refused_with_what_they_hold(torch, tmp_path):
    torch.save({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(
        InputError, match=r"none of torchvision's networks .*; the nearest is .*, without .* and with 'conv1\.weight' "
    ):
        read_torchvision(tmp_path / "resnet.pth")
    safetensors.numpy.save_file({}, tmp_path / "empty")
    with pytest.raises(InputError, match="none of torchvision's networks"):
        read_torchvision(tmp_path / "empty")
    with pytest.raises(InputError, match="none of torchvision's networks"):
        read_torchvision(ASSETS / "squeezenet1_1.safetensors")
    with pytest.raises(InputError, match="none: cannot be read"):
        read_torchvision(tmp_path / "none")


def with_header(header, length=None):
    return (len(header) if length is None else length).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "contents",
    [
        with_header(b"{}", 1 << 40),
        with_header(b"{}", (1 << 64) - 1),
        with_header(b"{"),
        with_header(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'),
        with_header(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
        with_header(b'{"a":' + b"[" * 89000),
        with_header(b"{}".ljust(1 << 23)),
    ],
)
def test_hostile_safetensors(contents, tmp_path):
    path = tmp_path / "w"
    path.write_bytes(contents)
    with pytest.raises(InputError, match="damaged, cut off, or not a safetensors file") as refusal:
        read_torchvision(path)
    assert "\n" not in str(refusal.value)


#: Reads a file with 256 MiB more than Python has taken already.
IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
sys.modules["torch"] = None
from npconvnet.errors import InputError
from npconvnet.weights.torchvision import read_torchvision

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    read_torchvision(Path(sys.argv[1]))
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_widths_that_would_take_all_memory(state, tmp_path):
    """Each tensor is small, but a network of these widths would not be."""
    wide = {name: np.zeros((50_000, *(1,) * (value.ndim - 1))) for name, value in state.items() if "features" in name}
    safetensors.numpy.save_file(state | wide, tmp_path / "w")
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path / "w")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith(f"{tmp_path / 'w'}: its network does not fit into memory")
    assert done.stdout.count("\n") == 1


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in a mutated name of a function
@pytest.mark.parametrize(("form", "count"), [("safetensors", 3000), ("pth", 1000)])
def test_mutated_files_are_read_or_refused(form, count, rng, tmp_path, request):
    if form == "pth":
        request.getfixturevalue("torch")
    path = tmp_path / f"w.{form}"
    write_torchvision(path, small_state())
    contents = path.read_bytes()
    body = contents.rindex(b"}") if form == "safetensors" else len(contents)
    reads = 0
    for number in range(count):
        head = number % 2 == 0  # which would otherwise seldom be hit
        part = contents[: body + 1] if head else contents
        path.write_bytes(mutated(rng, part) + contents[len(part) :])
        try:
            read_torchvision(path)
            reads += 1
        except InputError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
    assert 0 < reads < count


# -- out -------------------------------------------------------------------------------------------------------------


def ours(name, make):
    """Our network with random parameters, of the widths that `make(name)` has."""
    model = OURS[name]
    published = MODELS[model]().options
    options = {"widths": [width // 8 for width in published["widths"]]}
    network = MODELS[model](classes=CLASSES, **options, **({"hidden": 512} if "hidden" in published else {}))
    rng = np.random.default_rng(1)
    network.initialize(rng)
    for parameter in network.parameters.values():
        parameter += 0.1 * rng.standard_normal(parameter.shape, np.float32) / parameter[0].size ** 0.5
    network.preprocessing = torchvision_preprocessing()
    return network


def load(path, torch):
    if path.suffix == ".safetensors":
        return {name: torch.from_numpy(value) for name, value in safetensors.numpy.load_file(path).items()}
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("name", OURS)
def test_torchvision_takes_what_was_trained_here(name, form, make, photo, torch, tmp_path):
    network, model, path = ours(name, make), make(name), tmp_path / f"w.{form}"
    write_torchvision(path, network)
    model.load_state_dict(load(path, torch), strict=True)
    expected = our_scores(network, photo)
    assert np.ptp(expected) > 0.1 * np.abs(expected).max()
    assert_close(torchvision_scores(model, photo, torch), expected)
    assert_same_network(read_torchvision(path), network)


@pytest.mark.parametrize("name", OURS)
def test_what_torchvision_wrote_goes_back_bit_by_bit(name, make, torch, tmp_path):
    state = make(name).state_dict()
    torch.save(state, tmp_path / "in.pth")
    write_torchvision(tmp_path / "out.pth", read_torchvision(tmp_path / "in.pth"))
    again = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(again) == list(state)
    for key, tensor in state.items():
        assert torch.equal(again[key], tensor)


def test_the_bundled_squeezenet_gives_the_same_scores_in_torchvision(torchvision, torch, photo, tmp_path):
    """On 224 pixels. On the 227 that it was trained on, torchvision rounds the sizes of its pools up."""
    network, model = bundled_network(), torchvision.models.squeezenet1_1().eval()
    write_torchvision(tmp_path / "w.pth", network)
    model.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True), strict=True)
    x = network.preprocess([np.array(photo)])[:, 1:225, 1:225]
    with torch.no_grad():
        expected = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    assert_close(network.scores(x), expected)


@pytest.mark.parametrize("model", ["squeezenet", "squeezenet1_1", "alexnet_owt"])
def test_safetensors_bring_preprocessing_and_names_back(model, rng, tmp_path):
    """And of the two SqueezeNets 1.1 the one that was written, which rounds its pools otherwise."""
    widths = [2] * (17 if "squeeze" in model else 5)
    network = MODELS[model](classes=3, widths=widths, **({} if "squeeze" in model else {"hidden": 4}))
    network.initialize(rng)
    crop = network.preprocessing.crop
    mean = rng.random((crop, crop, 3), np.float32)
    network.preprocessing = Preprocessing(256, crop, mean, (3, 2, 1), "bicubic", keep_aspect=False)
    network.synsets = tuple(Synset(f"n{number}", f"thing {number}") for number in range(3))
    write_torchvision(tmp_path / "w.safetensors", network)
    again = load_network(tmp_path / "w.safetensors")
    assert (again.model, again.preprocessing, again.synsets) == (model, network.preprocessing, network.synsets)
    x = network.preprocess([rng.integers(0, 256, (300, 400, 3), np.uint8)])
    np.testing.assert_array_equal(again.scores(x), network.scores(x))


@pytest.mark.parametrize("text", ["{", "[]", '{"model": [], "preprocessing": {}, "synsets": []}'])
def test_metadata_that_make_no_sense(text, state, tmp_path):
    safetensors.numpy.save_file(state, tmp_path / "w", {"npconvnet.network": text})
    with pytest.raises(InputError, match="w: its metadata are not what npconvnet writes"):
        read_torchvision(tmp_path / "w")


@pytest.mark.parametrize("model", ["paper", "alexnet", "tiny"])
def test_other_architectures_are_refused(model, tmp_path):
    with pytest.raises(InputError, match=rf"w\.pth: .*'{model}'.* can be written: alexnet_owt, vgg11, .*squeezenet1_1"):
        write_torchvision(tmp_path / "w.pth", MODELS[model]())
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_torch")
def test_without_pytorch_only_safetensors_are_written(tmp_path):
    with pytest.raises(
        InputError, match=r"w\.pth: needs PyTorch; pip install torch, or choose a name in \.safetensors"
    ):
        write_torchvision(tmp_path / "w.pth", small_state())
    assert not list(tmp_path.iterdir())
    write_torchvision(tmp_path / "w.safetensors", small_state())
    assert_same_network(read_torchvision(tmp_path / "w.safetensors"), small_state())


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_full_disk_leaves_the_old_file(form, torch, tmp_path, monkeypatch):
    path = tmp_path / f"w.{form}"
    path.write_bytes(b"old")

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_torchvision(path, small_state())
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
