import io
import os
import pickle
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.io

from npconvnet.data.ilsvrc import Box, Example, Synset, imagenet_synsets, open_dataset
from npconvnet.data.layouts.companions import Companions, archived_files
from npconvnet.data.layouts.listing import list_images
from npconvnet.errors import InputError

# Three classes whose ids in the devkit are not in the order of the wnids, as in ILSVRC (1 is n02119789, kit fox).
WNIDS = ("n01440764", "n01443537", "n02119789")
IDS = {"n02119789": 1, "n01440764": 2, "n01443537": 3}
TRUTH = ("n01443537", "n02119789", "n01440764", "n02119789", "n01443537")  # of the validation images, in order
LABELS = [1, 2, 0, 2, 1]
VALIDATION = [f"ILSVRC2012_val_{number:08d}" for number in range(1, 6)]
TRAIN = {wnid: [f"{wnid}_{number}" for number in (10026, 293, 7)] for wnid in WNIDS}
WORDS = {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish, Carassius auratus"}


def image(name):
    """The bytes of an image: the reader never looks into them, and no two are alike or of one size."""
    return b"\xff\xd8" + name.encode() * (1 + len(name) % 3)


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def tar(files, mode="w", **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def voc(*objects):
    inside = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
        f"<ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    )
    return f"<annotation><filename>x</filename>{inside}</annotation>".encode()


def meta_mat():
    """meta.mat of the devkit: a struct array of leaves and inner nodes, here in an order of its own."""
    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    synsets = np.zeros((5, 1), [(name, object) for name in fields])
    nodes = [(number, wnid, WORDS.get(wnid, "kit fox, Vulpes macrotis"), 0) for wnid, number in IDS.items()]
    nodes += [(4, "n02469914", "fish", 2), (5, "n00015388", "animal", 2)]
    for row, (number, wnid, words, children) in zip(synsets[:, 0], nodes, strict=True):
        below = np.array([[2.0, 3.0]]) if children else np.zeros((0, 0))
        for name, value in zip(fields, (number, wnid, words, "a gloss", children, below, children, 3), strict=True):
            row[name] = value
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets})  # type: ignore[arg-type]
    return buffer.getvalue()


def devkit_files(truth=None):
    ids = [str(IDS[wnid]) for wnid in TRUTH] if truth is None else truth
    return {
        "ILSVRC2012_devkit_t12/readme.txt": b"This is the documentation",
        "ILSVRC2012_devkit_t12/data/meta.mat": meta_mat(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "\n".join([*ids, ""]).encode(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2014_clsloc_validation_blacklist.txt": b"2\n5\n",
    }


def train_tar(folders=None):
    folders = TRAIN if folders is None else folders
    return tar(
        {f"{wnid}.tar": tar({f"{name}.JPEG": image(name) for name in names}) for wnid, names in folders.items()},
        format=tarfile.USTAR_FORMAT,
    )


def write_official(root, truth=None):
    write(root / "ILSVRC2012_img_train.tar", train_tar())
    write(root / "ILSVRC2012_img_val.tar", tar({f"{name}.JPEG": image(name) for name in reversed(VALIDATION)}))
    write(root / "ILSVRC2012_devkit_t12.tar.gz", tar(devkit_files(truth), "w:gz"))


def write_train(root):
    for wnid, names in TRAIN.items():
        for name in names:
            write(root / wnid / f"{name}.JPEG", image(name))


def write_unpacked(root):
    """The unpacked tree with flat validation images: the file of labels is up to the test."""
    write_train(root / "train")
    for name in VALIDATION:
        write(root / "val" / f"{name}.JPEG", image(name))


def write_kaggle(root):
    write_unpacked(root / "ILSVRC" / "Data" / "CLS-LOC")
    write(root / "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG", image("test"))
    write(root / "LOC_synset_mapping.txt", "".join(f"{wnid} {WORDS.get(wnid, 'kit fox')}\n" for wnid in WNIDS))
    rows = [f"{name},{wnid} 1 2 30 40 {wnid} 5 6 70 80 " for name, wnid in zip(VALIDATION, TRUTH, strict=True)]
    write(root / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *reversed(rows), ""]))
    write(root / "ILSVRC/ImageSets/CLS-LOC/val.txt", "\n".join(f"{name} {at}" for at, name in enumerate(VALIDATION, 1)))


def write_classes(root, **counts):
    for folder, count in counts.items():
        for number in range(count):
            write(root / folder / f"{number:03d}.jpg", image(f"{folder}{number}"))


def assert_reads_the_miniature(dataset):
    """The same names, labels and bytes from every layout."""
    assert [synset.wnid for synset in dataset.synsets] == list(WNIDS)
    assert [synset.names for synset in dataset.synsets[:2]] == list(WORDS.values())
    expected = sorted((f"train/{wnid}/{name}.JPEG", name) for wnid, names in TRAIN.items() for name in names)
    assert [example.name for example in dataset.train] == [name for name, _ in expected]
    assert [example.label for example in dataset.train] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [example.read() for example in dataset.train] == [image(name) for _, name in expected]
    assert [example.label for example in dataset.validation] == LABELS
    assert [example.read() for example in dataset.validation] == [image(name) for name in VALIDATION]
    assert dataset.note == ""


def refused(root, message):
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- The official tars ----------------------------------------------------------------------------------------------


def test_official_tars_are_read_in_place(tmp_path):
    write_official(tmp_path)
    dataset = open_dataset(tmp_path)
    assert_reads_the_miniature(dataset)
    assert dataset.layout == "official tars"
    assert [example.name for example in dataset.validation] == [f"val/{name}.JPEG" for name in VALIDATION]
    assert dataset.train[0].path == tmp_path / "ILSVRC2012_img_train.tar"
    assert dataset.blacklist == {f"val/{VALIDATION[1]}.JPEG", f"val/{VALIDATION[4]}.JPEG"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ILSVRC2012_devkit_t12.tar.gz",
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
    ]


def odd_tar(*members, format=tarfile.PAX_FORMAT):
    """A tar of members (name, content), in which a TarInfo may stand for a name, and a name more than once."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def special(name, type):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type, f"{VALIDATION[0]}.JPEG"
    return member


def replace_validation(root, *extra, **options):
    """The miniature's validation tar with more members after its own."""
    files = [(f"{name}.JPEG", image(name)) for name in VALIDATION]
    write(root / "ILSVRC2012_img_val.tar", odd_tar(*files, *extra, **options))


def test_of_members_of_one_name_the_last_counts(tmp_path):
    """A tar to which files were appended that were in it before, as by `tar --append`, or a class anew."""
    write_official(tmp_path)
    replace_validation(tmp_path, (f"{VALIDATION[1]}.JPEG", b"old"), (f"./{VALIDATION[1]}.JPEG", b"new"))
    first, second, third = (
        odd_tar(*((f"{name}.JPEG", image(name)) for name in TRAIN[wnid]), (f"{TRAIN[wnid][0]}.JPEG", b"new"))
        for wnid in WNIDS
    )
    stale = odd_tar((f"{TRAIN[WNIDS[1]][0]}.JPEG", b"stale"), ("stale.JPEG", b"stale"))
    tars = zip((f"{wnid}.tar" for wnid in (WNIDS[1], *WNIDS)), (stale, first, second, third), strict=True)
    write(tmp_path / "ILSVRC2012_img_train.tar", odd_tar(*tars))
    dataset = open_dataset(tmp_path)
    read = {example.name: example.read() for example in (*dataset.train, *dataset.validation)}
    assert len(read) == len(dataset.train) + len(dataset.validation) == 14
    assert read.pop(f"val/{VALIDATION[1]}.JPEG") == b"new"
    for wnid in WNIDS:
        assert read.pop(f"train/{wnid}/{TRAIN[wnid][0]}.JPEG") == b"new"
    assert not {b"old", b"stale", b"new"} & set(read.values())


@pytest.mark.parametrize("suffix", ["JPEG", "tar"])
def test_links_devices_and_folders_in_a_tar_are_no_images(tmp_path, suffix):
    write_official(tmp_path)
    types = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE
    members = [(special(f"odd{number}.{suffix}", type), b"") for number, type in enumerate(types)]
    link = tarfile.TarInfo(f"link.{suffix}")
    replace_validation(tmp_path, *members, (link, b""))
    content = (tmp_path / "ILSVRC2012_img_val.tar").read_bytes()
    link.type, link.size = (
        tarfile.LNKTYPE,
        700,
    )  # some writers give a link the size of its file, whose bytes are elsewhere
    content = content.replace(tarfile.TarInfo(link.name).tobuf(tarfile.PAX_FORMAT), link.tobuf(tarfile.PAX_FORMAT))
    write(tmp_path / "ILSVRC2012_img_val.tar", content)
    assert_reads_the_miniature(open_dataset(tmp_path))


def test_names_in_a_tar_stay_below_its_folder(tmp_path):
    names = ["../../a.JPEG", "/b.JPEG", "//etc/c.JPEG", "x/../d.JPEG", "..", "/", "./e.JPEG"]
    inner = odd_tar(*((name, image(name)) for name in names))
    write(tmp_path / "ILSVRC2012_img_train.tar", odd_tar(("/../n1.tar", inner), ("/n2/../n2.tar", inner)))
    write_classes(tmp_path / "val", n1=1)
    train = open_dataset(tmp_path).train
    below = {"a.JPEG": names[0], "b.JPEG": names[1], "e.JPEG": names[6], "etc/c.JPEG": names[2], "x/d.JPEG": names[3]}
    assert [example.name for example in train] == [f"train/{wnid}/{name}" for wnid in ("n1", "n2") for name in below]
    assert [example.read() for example in train] == 2 * [image(name) for name in below.values()]
    assert [example.label for example in train] == 5 * [0] + 5 * [1]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_in_a_tar_may_be_long_and_in_any_alphabet(tmp_path, format):
    long = "犬" * 80
    inner = odd_tar(("Fußball 猫.JPEG", b"1"), (f"{long}.JPEG", b"2"), format=format)
    write(tmp_path / "ILSVRC2012_img_train.tar", odd_tar(("Bär.tar", inner), (f"{long}.tar", inner), format=format))
    write_classes(tmp_path / "val", Bär=1)
    dataset = open_dataset(tmp_path)
    assert [synset.wnid for synset in dataset.synsets] == ["Bär", long]
    assert [(example.name, example.read()) for example in dataset.train[:2]] == [
        ("train/Bär/Fußball 猫.JPEG", b"1"),
        (f"train/Bär/{long}.JPEG", b"2"),
    ]


@pytest.mark.parametrize("size", [-512, -1, 2**62, 2**80])
def test_sizes_in_a_tar_that_make_no_sense_are_refused(tmp_path, size):
    write_official(tmp_path)
    member = tarfile.TarInfo("a.JPEG")
    member.size = size
    write(tmp_path / "ILSVRC2012_img_val.tar", member.tobuf(tarfile.GNU_FORMAT) + image("a") + bytes(2048))
    refused(tmp_path, r"img_val\.tar: the tar is cut off or damaged")


def test_no_damage_to_a_tar_gives_anything_but_a_data_set_or_an_input_error(tmp_path):
    rng = np.random.default_rng(0)
    inner = odd_tar((f"{'a' * 120}é.jpg", b"x" * 10), ("b.jpg", b"y" * 700)).rstrip(b"\0") + bytes(1024)
    whole = odd_tar(("n1.tar", inner), ("n2/c.jpg", b"z")).rstrip(b"\0") + bytes(1024)
    read, refusals = 0, 0
    for _ in range(2000):
        damaged = bytearray(whole)
        header = int(rng.integers(len(whole) // 512)) * 512
        at, length = header + int(rng.integers(512)), int(rng.integers(1, 9))
        damaged[at : at + length] = b"\xff" * length if rng.integers(2) else rng.bytes(int(rng.integers(9)))
        checked = damaged[header : header + 512]  # a checksum that fits lets the damage through to the fields
        damaged[header + 148 : header + 156] = b"%06o\0 " % (256 + sum(checked) - sum(checked[148:156]))
        write(tmp_path / "x.tar", bytes(damaged[: rng.integers(4 * len(whole))]))
        try:
            listing = list_images(tmp_path / "x.tar", "train")
            assert len(set(listing.names)) == len(listing.names)
            read += 1
        except InputError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert read > 100
    assert refusals > 100


@pytest.mark.parametrize("archive_of", ["files", "tars"])
def test_boxes_of_the_official_archives(tmp_path, archive_of):
    write_official(tmp_path)
    train = {f"{TRAIN[WNIDS[0]][0]}.xml": voc((WNIDS[0], (1, 2, 3, 4)), (WNIDS[0], (5, 6, 7, 8)))}
    validation = {"val/ILSVRC2012_val_00000001.xml": voc((WNIDS[1], (10, 20, 500, 375)), ("n99999999", (1, 1, 2, 2)))}
    files = {f"Annotation/{WNIDS[0]}/{name}": xml for name, xml in train.items()}
    if archive_of == "tars":
        files = {f"Annotation/{WNIDS[0]}.tar.gz": tar(files, "w:gz")}
    write(tmp_path / "ILSVRC2012_bbox_train_v2.tar.gz", tar(files, "w:gz"))
    write(tmp_path / "ILSVRC2012_bbox_val_v3.tgz", tar(validation, "w:gz"))
    dataset = open_dataset(tmp_path)
    boxes = {example.name: dataset.boxes(example) for example in (*dataset.train, *dataset.validation)}
    assert boxes.pop(f"train/{WNIDS[0]}/{TRAIN[WNIDS[0]][0]}.JPEG") == [Box(0, 1, 2, 3, 4), Box(0, 5, 6, 7, 8)]
    assert boxes.pop("val/ILSVRC2012_val_00000001.JPEG") == [Box(1, 10, 20, 500, 375)]
    assert not any(boxes.values())


def test_archives_of_boxes_are_not_opened_before_a_box_is_asked_for(tmp_path):
    write_official(tmp_path)
    write(tmp_path / "ILSVRC2012_bbox_val_v3.tgz", tar({"val/a.xml": voc()}, "w:gz")[:60])
    dataset = open_dataset(tmp_path)
    assert dataset.boxes(dataset.train[0]) == []
    with pytest.raises(InputError, match=r"bbox_val_v3\.tgz: the archive cannot be read to its end"):
        dataset.boxes(dataset.validation[0])


def test_an_archive_of_boxes_is_read_once_however_many_threads_ask(tmp_path, monkeypatch):
    write_official(tmp_path)
    write(tmp_path / "ILSVRC2012_bbox_val_v3.tgz", tar({f"{VALIDATION[0]}.xml": voc((WNIDS[1], (1, 2, 3, 4)))}, "w:gz"))
    read = []

    def slowly(path):
        read.append(path)
        time.sleep(0.1)
        return archived_files(path)

    monkeypatch.setattr("npconvnet.data.layouts.annotations.archived_files", slowly)
    dataset = open_dataset(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(dataset.boxes, 8 * [dataset.validation[0]]))
    assert found == 8 * [[Box(1, 1, 2, 3, 4)]]
    assert len(read) == 1


def test_tars_and_folders_may_be_mixed(tmp_path):
    write_official(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    write_train(tmp_path / "train")
    dataset = open_dataset(tmp_path)
    assert_reads_the_miniature(dataset)
    assert dataset.train[0].path == tmp_path / dataset.train[0].name
    assert dataset.validation[0].path.name == "ILSVRC2012_img_val.tar"


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    write_official(tmp_path)
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        whole = (tmp_path / name).read_bytes()
        content = len(whole.rstrip(b"\0"))
        for length in (*range(0, content, 512), *range(300, content, 1024)):
            write(tmp_path / name, whole[:length])
            refused(tmp_path, f"{name}: the tar is cut off or damaged")
        write(tmp_path / name, whole)
    open_dataset(tmp_path)


def test_an_inner_tar_cut_off_in_a_whole_outer_one_is_refused(tmp_path):
    write_official(tmp_path)
    inner = {f"{wnid}.tar": tar({f"{name}.JPEG": image(name) for name in names}) for wnid, names in TRAIN.items()}
    for length in (512, 1024, 1100, 2048):
        write(tmp_path / "ILSVRC2012_img_train.tar", tar({**inner, "n01443537.tar": inner["n01443537.tar"][:length]}))
        refused(tmp_path, r"ILSVRC2012_img_train\.tar: the tar is cut off")


def test_a_tar_that_shrinks_after_it_was_listed(tmp_path):
    write_official(tmp_path)
    dataset = open_dataset(tmp_path)
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[: dataset.train[-1].offset + 5])
    with pytest.raises(
        InputError, match=r"img_train\.tar: cut off before the end of train/n02119789/n02119789_7\.JPEG"
    ):
        dataset.train[-1].read()
    path.unlink()
    with pytest.raises(InputError, match=r"img_train\.tar: cannot read train/n01440764/.* \(No such file"):
        dataset.train[0].read()


def test_only_the_leaves_of_the_devkit_are_classes(tmp_path):
    write(tmp_path / "meta.mat", meta_mat())
    assert {number: synset.wnid for number, synset in Companions(tmp_path).ilsvrc_ids.items()} == {
        number: wnid for wnid, number in IDS.items()
    }


def test_damaged_devkits(tmp_path):
    write_official(tmp_path)
    devkit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    devkit.write_bytes(devkit.read_bytes()[:-200])
    refused(tmp_path, r"devkit_t12\.tar\.gz: the archive cannot be read")
    devkit.write_bytes(b"<html>")
    refused(tmp_path, r"devkit_t12\.tar\.gz: the archive cannot be read")
    for content in (b"", b"junk" * 100, meta_mat()[:-50]):
        devkit.write_bytes(tar({**devkit_files(), "ILSVRC2012_devkit_t12/data/meta.mat": content}, "w:gz"))
        refused(tmp_path, r"tar\.gz/meta\.mat: cannot be read as the devkit's list")
    devkit.unlink()
    refused(tmp_path, r"ILSVRC2012_img_val\.tar: no labels for these images; .*ILSVRC2012_devkit_t12\.tar\.gz")


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (["3", "1", "4", "1", "3"], r"ground_truth\.txt:3: label '4' is none of the 3 classes"),  # 4: an inner node
        (["3", "1", "2", "1", "0"], r"ground_truth\.txt:5: label '0' is none"),
        (["3", "1", "2", "1"], r"ground_truth\.txt: 4 labels for 5 validation images"),
        (["3", "x", "2", "1", "3"], r"ground_truth\.txt:2: label 'x' is none"),
    ],
)
def test_ground_truth_that_does_not_fit(tmp_path, truth, message):
    write_official(tmp_path, truth)
    refused(tmp_path, message)


# ---- The unpacked tree ----------------------------------------------------------------------------------------------


def test_unpacked_with_validation_folders(tmp_path):
    write_unpacked(tmp_path)
    for name, wnid in zip(VALIDATION, TRUTH, strict=True):
        (tmp_path / "val" / wnid).mkdir(exist_ok=True)
        (tmp_path / "val" / f"{name}.JPEG").rename(tmp_path / "val" / wnid / f"{name}.JPEG")
    write(tmp_path / "devkit" / "data" / "ILSVRC2012_validation_blacklist.txt", "1")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "unpacked"
    assert {example.name: example.label for example in dataset.validation} == {
        f"val/{wnid}/{name}.JPEG": label for name, wnid, label in zip(VALIDATION, TRUTH, LABELS, strict=True)
    }
    assert dataset.synsets[2] == Synset("n02119789", "kit fox, Vulpes macrotis")
    assert dataset.blacklist == {f"val/{TRUTH[0]}/{VALIDATION[0]}.JPEG"}

    write(tmp_path / "val" / "n09999999" / "x.JPEG")
    refused(tmp_path, r"val: folder n09999999 is not a class of the training images")


LABEL_FILES = {
    "devkit folder": devkit_files(),
    "devkit tarball": {"ILSVRC2012_devkit_t12.tar.gz": tar(devkit_files(), "w:gz")},
    "later devkit": {
        "devkit/data/map_clsloc.txt": "".join(f"{wnid} {number} a_name\n" for wnid, number in IDS.items()),
        "devkit/data/ILSVRC2015_clsloc_validation_ground_truth.txt": "\n".join(str(IDS[wnid]) for wnid in TRUTH),
    },
    "name and index": {"val.txt": "".join(f"{name}.JPEG {x}\n" for name, x in zip(VALIDATION, LABELS, strict=True))},
    "name and wnid": {"val.txt": "".join(f"val/{name}.JPEG {x}\n" for name, x in zip(VALIDATION, TRUTH, strict=True))},
    "inside val": {
        "val/val_annotations.txt": "".join(
            f"{name}.JPEG\t{wnid}\t0\t1\t2\t3\r\n" for name, wnid in zip(VALIDATION, TRUTH, strict=True)
        )
    },
    "wnids": {"imagenet_2012_validation_synset_labels.txt": "\n".join(TRUTH) + "\n"},
    "Kaggle's solution": {
        "LOC_val_solution.csv": "ImageId,PredictionString\n"
        + "".join(f"{name},{wnid} 1 2 3 4\n" for name, wnid in zip(VALIDATION, TRUTH, strict=True))
    },
}


@pytest.mark.parametrize("files", LABEL_FILES.values(), ids=list(LABEL_FILES))
def test_unpacked_with_a_file_of_labels(tmp_path, files):
    write_unpacked(tmp_path)
    for name, content in files.items():
        write(tmp_path / name, content)
    dataset = open_dataset(tmp_path)
    assert_reads_the_miniature(dataset)
    assert dataset.layout == "unpacked"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"val: no labels for these images; add .*LOC_val_solution\.csv, a val\.txt"),
        ({"val.txt": "ILSVRC2012_val_00000001.JPEG 0\n"}, r"val\.txt: no label for the validation image .*00000002"),
        ({"val.txt": "\n".join(f"{name} 3" for name in VALIDATION)}, r"val\.txt:1: label '3' is none of the 3"),
        ({"val.txt": "\n".join(f"{name} n1" for name in VALIDATION)}, r"val\.txt:1: label 'n1' is none"),
        ({"val.txt": "a b\nILSVRC2012_val_00000001\n"}, r"val\.txt: no label for the validation image .*00000001"),
        ({"val.txt": ""}, r"val\.txt: no label"),
        ({"ILSVRC2012_validation_ground_truth.txt": "1\n2\n3\n1\n2\n"}, r"ids need ILSVRC2012_devkit_t12\.tar\.gz"),
        ({"ILSVRC2012_validation_ground_truth.txt": "1\n2\n"}, r"truth\.txt: 2 labels for 5 validation images"),
        ({"devkit/map_clsloc.txt": "n01440764\n"}, r"map_clsloc\.txt: cannot be read as the devkit's list"),
    ],
)
def test_files_of_labels_that_do_not_fit(tmp_path, files, message):
    write_unpacked(tmp_path)
    for name, content in files.items():
        write(tmp_path / name, content)
    refused(tmp_path, message)


def test_synset_words_name_the_classes(tmp_path):
    write_classes(tmp_path / "train", n99000001=1, n99000002=1)
    write_classes(tmp_path / "val", n99000001=1)
    write(tmp_path / "synset_words.txt", "n99000001 étoile, star\nn99000003 other\n")
    assert open_dataset(tmp_path).synsets == (
        Synset("n99000001", "étoile, star"),
        Synset("n99000002", "n99000002"),
    )


# ---- Kaggle ---------------------------------------------------------------------------------------------------------


def test_kaggle(tmp_path):
    write_kaggle(tmp_path)
    annotations = tmp_path / "ILSVRC" / "Annotations" / "CLS-LOC"
    write(annotations / "val" / f"{VALIDATION[2]}.xml", voc((WNIDS[0], (3, 4, 50, 60)), (WNIDS[2], ("1.0", 2, 3, 4))))
    write(annotations / "train" / WNIDS[1] / f"{TRAIN[WNIDS[1]][1]}.xml", voc((WNIDS[1], (0, 0, 9, 9))))
    dataset = open_dataset(tmp_path)
    assert_reads_the_miniature(dataset)
    assert dataset.layout == "Kaggle"
    assert dataset.synsets[2].names == "kit fox"
    assert dataset.boxes(dataset.validation[2]) == [Box(0, 3, 4, 50, 60), Box(2, 1, 2, 3, 4)]
    assert dataset.boxes(dataset.validation[1]) == []
    boxed = [example for example in dataset.train if dataset.boxes(example)]
    assert [(example.name, dataset.boxes(example)) for example in boxed] == [
        (f"train/{WNIDS[1]}/{TRAIN[WNIDS[1]][1]}.JPEG", [Box(1, 0, 0, 9, 9)])
    ]


def test_kaggle_without_a_line_for_a_validation_image(tmp_path):
    write_kaggle(tmp_path)
    write(tmp_path / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000006.JPEG", image("6"))
    refused(tmp_path, r"LOC_val_solution\.csv: no label for the validation image ILSVRC2012_val_00000006$")


@pytest.mark.parametrize("folder", ["val", "bbox/val", "ILSVRC2012_bbox_val_v3/val", "Annotations/val/n01443537"])
def test_boxes_are_found_a_level_off_the_images(tmp_path, folder):
    """Validation images sorted into folders are usually annotated in one flat folder, and the other way round."""
    write_unpacked(tmp_path)
    for name, content in LABEL_FILES["name and wnid"].items():
        write(tmp_path / name, content)
    write(tmp_path / folder / f"{VALIDATION[0]}.xml", voc(("n01443537", (1, 2, 3, 4))))
    dataset = open_dataset(tmp_path)
    assert dataset.boxes(dataset.validation[0]) == ([] if folder == "val" else [Box(1, 1, 2, 3, 4)])


def test_dogs_annotated_by_name_count_and_other_names_do_not(tmp_path):
    write_classes(tmp_path / "train", n02092002=1, n02085620=1)
    write_classes(tmp_path / "val", n02092002=1)
    objects = [("Scottish_deerhound", (1, 2, 3, 4)), ("Chihuahua", (1, 1, 1, 1)), ("n02085620", (5, 6, 7, 8))]
    write(tmp_path / "Annotations" / "train" / "n02092002" / "000.xml", voc(*objects))
    dataset = open_dataset(tmp_path)
    deerhound = dataset.train[1]
    assert dataset.synsets[deerhound.label].names == "Scottish deerhound, deerhound"
    assert dataset.boxes(deerhound) == [Box(1, 1, 2, 3, 4), Box(0, 5, 6, 7, 8)]


@pytest.mark.parametrize("xml", [b"", b"<annotation>", b"not xml", voc(("n1", ("a", 1, 2, 3))), voc(("n1", ("",) * 4))])
def test_malformed_annotations(tmp_path, xml):
    write_kaggle(tmp_path)
    write(tmp_path / "ILSVRC/Annotations/CLS-LOC/val" / f"{VALIDATION[0]}.xml", xml)
    dataset = open_dataset(tmp_path)
    with pytest.raises(InputError, match=r"ILSVRC2012_val_00000001\.xml: cannot be read as a VOC annotation") as caught:
        dataset.boxes(dataset.validation[0])
    assert "\n" not in str(caught.value)


# ---- Folders of class folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_class_folders_with_splits(tmp_path, name):
    write_classes(tmp_path / "train", tabby=2, Bär=1, 犬=3)
    write_classes(tmp_path / name, tabby=1, 犬=2)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "class folders"
    assert dataset.synsets == (Synset("Bär", "Bär"), Synset("tabby", "tabby"), Synset("犬", "犬"))
    assert [example.label for example in dataset.train] == [0, 1, 1, 2, 2, 2]
    assert [example.name for example in dataset.validation] == [
        f"{name}/tabby/000.jpg",
        f"{name}/犬/000.jpg",
        f"{name}/犬/001.jpg",
    ]
    assert dataset.validation[1].read() == image("犬0")
    assert ("test/" in dataset.note) == (name == "test")


def test_without_splits_every_tenth_image_is_held_out(tmp_path):
    write_classes(tmp_path, cat=25, dog=2, emu=1)
    write(tmp_path / "Annotations" / "cat" / "003.xml", voc(("cat", (1, 2, 3, 4))))
    dataset = open_dataset(tmp_path)
    held_out = ["cat/001.jpg", "cat/011.jpg", "cat/021.jpg", "dog/001.jpg"]
    assert [example.name for example in dataset.validation] == held_out
    assert [example.label for example in dataset.validation] == [0, 0, 0, 1]
    everything = [
        f"{name}/{at:03d}.jpg" for name, count in (("cat", 25), ("dog", 2), ("emu", 1)) for at in range(count)
    ]
    assert [example.name for example in dataset.train] == [name for name in everything if name not in held_out]
    assert [synset.wnid for synset in dataset.synsets] == ["cat", "dog", "emu"]
    assert "every tenth image of each class is held out for validation (4 images)" in dataset.note
    assert [example.name for example in dataset.train if dataset.boxes(example)] == ["cat/003.jpg"]
    assert list(open_dataset(tmp_path).train) == list(dataset.train)


def test_a_class_may_be_called_train(tmp_path):
    write_classes(tmp_path, bus=2, car=2, train=2)
    assert [synset.wnid for synset in open_dataset(tmp_path).synsets] == ["bus", "car", "train"]


def test_hidden_files_and_other_files_are_ignored_and_folders_in_a_class_are_not(tmp_path):
    write_classes(tmp_path / "train", cat=1, dog=1)
    write_classes(tmp_path / "val", cat=1)
    kept = ["a.JPEG", "b.jpeg", "c.PNG", "d.bmp", "e.WebP", "f.gif", "g.ppm", "h.tif", "i.TIFF", "more/j.jpg"]
    for name in (*kept, ".DS_Store", "._a.JPEG", "Thumbs.db", "notes.txt", "a.jpg.part", "jpg", ".git/x.jpg"):
        write(tmp_path / "train" / "cat" / name)
    for folder in ("train", "val"):
        write(tmp_path / folder / ".DS_Store")
        write(tmp_path / folder / ".ipynb_checkpoints" / "x.jpg")
        write(tmp_path / folder / "loose.jpg")
    dataset = open_dataset(tmp_path)
    assert [example.name for example in dataset.train] == [
        f"train/{name}" for name in ("cat/000.jpg", *(f"cat/{name}" for name in kept), "dog/000.jpg")
    ]
    assert [example.name for example in dataset.validation] == ["val/cat/000.jpg"]


@pytest.mark.parametrize("in_tar", [False, True])
def test_names_that_are_no_utf_8_can_be_read_and_printed(tmp_path, in_tar):
    name, folder = os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"n\xff")
    write_classes(tmp_path / "val", cat=1)
    if in_tar:
        inner = odd_tar((name, b"1"), format=tarfile.GNU_FORMAT)
        outer = odd_tar((f"{folder}.tar", inner), ("cat.tar", inner), format=tarfile.GNU_FORMAT)
        write(tmp_path / "ILSVRC2012_img_train.tar", outer)
    else:
        try:
            write(tmp_path / "train" / folder / name, b"1")
        except OSError:
            pytest.skip("this file system takes no such names")
        write(tmp_path / "train" / "cat" / name, b"1")
    dataset = open_dataset(tmp_path)
    assert [synset.wnid for synset in dataset.synsets] == ["cat", r"n\xff"]
    assert [example.name for example in dataset.train] == [r"train/cat/caf\xe9.jpg", r"train/n\xff/caf\xe9.jpg"]
    assert [example.read() for example in dataset.train] == [b"1", b"1"]
    assert [dataset.boxes(example) for example in dataset.train] == [[], []]
    dataset.train[0].path.unlink()
    with pytest.raises(InputError) as caught:
        dataset.train[0].read()
    str(caught.value).encode("utf-8")  # raises if it could not be printed


@pytest.mark.parametrize("write_layout", [write_official, write_kaggle])
def test_nothing_is_written_into_a_source(tmp_path, write_layout):
    write_layout(tmp_path)
    write(tmp_path / "ILSVRC2012_bbox_val_v3.tgz", tar({f"{VALIDATION[0]}.xml": voc((WNIDS[1], (1, 2, 3, 4)))}, "w:gz"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    dataset = open_dataset(tmp_path)
    for example in (*dataset.train, *dataset.validation):
        example.read()
        dataset.boxes(example)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_links_to_folders_and_files_are_followed(tmp_path):
    write_classes(tmp_path / "elsewhere" / "images", cat=2, dog=2)
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (tmp_path / "data" / split).symlink_to(tmp_path / "elsewhere" / "images", target_is_directory=True)
    (tmp_path / "elsewhere/images/cat/link.jpg").symlink_to(tmp_path / "elsewhere/images/cat/000.jpg")
    dataset = open_dataset(tmp_path / "data")
    assert len(dataset.train) == len(dataset.validation) == 5
    assert dataset.train[2].read() == image("cat0")


# ---- Mistakes -------------------------------------------------------------------------------------------------------


def test_folders_that_are_none(tmp_path):
    refused(tmp_path / "gone", "gone: no such folder")
    write(tmp_path / "file", b"x")
    refused(tmp_path / "file", "file: not a folder")


def test_unrecognised_layouts_name_those_that_are_understood(tmp_path):
    understood = r"understood: ILSVRC2012_img_train\.tar .* train/CLASS/ .* Kaggle's .* CLASS/ folders"
    refused(tmp_path, understood)
    write(tmp_path / "readme.txt", "nothing here")
    write(tmp_path / "loose.jpg")
    (tmp_path / "folder").mkdir()
    refused(tmp_path, understood)


def test_classes_without_images_are_named(tmp_path):
    write_classes(tmp_path / "train", cat=1, dog=1)
    write_classes(tmp_path / "val", cat=1)
    (tmp_path / "train" / "emu").mkdir()
    refused(tmp_path, r"train: class folder without images: emu; add images or remove the folder$")
    for name in "abcd":
        write(tmp_path / "train" / name / "notes.txt")
    refused(tmp_path, r"train: class folder without images: a, b, c and 2 more;")


def test_an_inner_tar_without_images_is_named(tmp_path):
    write_official(tmp_path)
    write(tmp_path / "ILSVRC2012_img_train.tar", train_tar({**TRAIN, "n01443537": []}))
    refused(tmp_path, r"img_train\.tar: class folder without images: n01443537;")


def test_one_class_only(tmp_path):
    write_classes(tmp_path / "split" / "train", cat=3)
    write_classes(tmp_path / "split" / "val", cat=3)
    refused(tmp_path / "split", "train: only one class, cat")
    write_classes(tmp_path / "plain", cat=30)
    refused(tmp_path / "plain", "plain: only one class, cat")


def test_missing_splits(tmp_path):
    write_classes(tmp_path / "a" / "train", cat=1, dog=1)
    refused(tmp_path / "a", "a: no validation images; add a val/ folder")
    (tmp_path / "a" / "val").mkdir()
    refused(tmp_path / "a", "val: no validation images in it")
    write_classes(tmp_path / "b" / "val", cat=1, dog=1)
    refused(tmp_path / "b", "b: no training images; add a train/ folder")
    (tmp_path / "b" / "train").mkdir()
    refused(tmp_path / "b", "train: no class folders with images")
    write_classes(tmp_path / "c", cat=1, dog=1)
    refused(tmp_path / "c", "c: no validation images; add a second image")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    write_classes(tmp_path, cat=2, dog=2)

    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", scandir)
    refused(tmp_path, r"cannot be read \(Permission denied\)")


# ---- The objects ----------------------------------------------------------------------------------------------------


def test_examples_are_a_sequence(tmp_path):
    write_official(tmp_path)
    train = open_dataset(tmp_path).train
    assert len(train) == 9
    assert train[-1] == train[8]
    assert train[1:8:3] == [train[1], train[4], train[7]]
    assert train[2] in train
    with pytest.raises(IndexError):
        train[9]
    assert isinstance(train[0].offset, int)


def test_a_dataset_can_be_sent_to_another_process(tmp_path):
    write_official(tmp_path)
    write(tmp_path / "ILSVRC2012_bbox_val_v3.tgz", tar({f"{VALIDATION[0]}.xml": voc((WNIDS[1], (1, 2, 3, 4)))}, "w:gz"))
    dataset = pickle.loads(pickle.dumps(open_dataset(tmp_path)))
    assert_reads_the_miniature(dataset)
    assert dataset.boxes(dataset.validation[0]) == [Box(1, 1, 2, 3, 4)]


def test_an_example_is_a_file_or_a_part_of_one(tmp_path):
    write(tmp_path / "x", b"0123456789")
    assert Example("x", 0, tmp_path / "x").read() == b"0123456789"
    assert Example("x", 0, tmp_path / "x", 3, 4).read() == b"3456"


def test_imagenet_synsets():
    synsets = imagenet_synsets()
    assert len(synsets) == 1000
    assert [synset.wnid for synset in synsets] == sorted(synset.wnid for synset in synsets)
    assert synsets[281] == Synset("n02123045", "tabby, tabby cat")
