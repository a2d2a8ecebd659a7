"""What scaling.py found, as tables and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.measuring import as_line
from bench.scaling_model import (
    CLUSTERS,
    GPUS,
    LINEAR_RULE,
    NVLINK,
    PORT,
    SUMS,
    Cluster,
    Step,
    bucket_names,
    fit,
    predict,
    rank_counts,
)
from npconvnet.models import MODELS
from npconvnet.network import Network
from npconvnet.training.distributed.wires import WireFormat
from npconvnet.visualization.figures.canvas import BLUE, GREY, ORANGE, save_figure

#: How many times as fast the forward and backward of a GPU may be.
FACTORS = 0.25, 1.0, 4.0
#: What the measurements on a device check of the model.
OVERLAP = {
    "cpu": "On the CPU no sum overlaps with the backward, and the model adds them all to the step.",
    "gpu": "On the GPU sums overlap with the backward, and the model adds what outlasts it.",
}
UNCHECKED = "The overlap of sums and backward is the model's alone: no measurement checked it."


# -- tables ------------------------------------------------------------------------------------------------------------


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report as tables."""
    parts = [_measurements(found, report["compared"][device]) for device, found in report["measured"].items()]
    return "# Scaling\n\n" + "\n\n".join([*parts, _predictions(report)]) + "\n"


def _measurements(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    command = (
        f"python bench/scaling.py --device {found['device']} --ranks {max(row['ranks'] for row in rows)} "
        f"--model {found['model']} --batch-size {','.join(map(str, found['batch_sizes']))} "
        f"--threads {found['threads']} --repetitions {found['repetitions']}"
    )
    speeds = _table(
        ["images a rank", "ranks", "gradients", "images/s", "efficiency", "the model says", "its error"],
        [
            [
                str(row["batch_size"]),
                str(row["ranks"]),
                f"summed, {row['kind']}" if row["kind"] in SUMS else "not summed",
                f"{row['images_per_second']:.1f}",
                f"{row['efficiency']:.0%}",
                "" if row["predicted"] is None else f"{row['predicted']:.1f}",
                "" if row["error"] is None else f"{row['error']:+.1%}",
            ]
            for row in rows
        ],
    )
    network = MODELS[found["model"]]()
    return "\n\n".join(
        [
            f"## Measured on the {found['device']}",
            f"{found['model']}, medians of {found['repetitions']} rounds; {as_line(found['versions'])}",
            f"    {command}",
            "Images/s of all ranks together, in training steps whose gradients are summed over the ranks or not, and "
            "what the model makes of the two tables below. Where 1 rank computes the others idle; efficiency = "
            f"images/s ÷ (ranks · images/s of 1 rank). {OVERLAP[found['device']]}",
            speeds,
            *(part for result in found["runs"] for part in _parts(result, network)),
        ]
    )


def _parts(result: Mapping[str, Any], network: Network) -> list[str]:
    """What the model is given of one number of ranks."""
    ranks = _count(result["ranks"], "rank")
    steps = [Step(**batch["step"]) for batch in result["batches"]]
    buckets = zip(bucket_names(network), steps[0].buckets, strict=True)
    events = [
        *([f"gradients of {', '.join(names)}", f"{size / 1e6:.1f} MB"] for names, size in buckets),
        ["the backward is over", ""],
        ["the update is over", ""],
    ]
    times = zip(*([*s.ready, s.backward, s.backward + s.update] for s in steps), strict=True)
    parts = [
        f"When the last of {ranks} has each bucket of gradients (a bucket is summed in one go), in a step that sums "
        "nothing: milliseconds since the step began.",
        _table(
            ["", "size", *(f"{s.batch} images a rank" for s in steps)],
            [[*event, *map(_ms, row)] for event, row in zip(events, times, strict=True)],
        ),
    ]
    if result["sums"]:
        parts += [
            f"How long one sum over {ranks} takes while nothing else runs: milliseconds, by the size of the gradients "
            "in float32; and the line through them, by which the model goes.",
            _table(
                ["sent as", *(f"{size // 2**10:,} KiB" for size, _ in result["sums"]["float32"]), "line"],
                [[wire, *(_ms(t) for _, t in times), _line(times)] for wire, times in result["sums"].items()],
            ),
        ]
    return parts


def _ms(seconds: float) -> str:
    return _rounded(1e3 * seconds)


def _rounded(x: float) -> str:
    """To three digits: no more is known."""
    return f"{float(f'{x:.3g}'):,.10g}"


def _line(times: Sequence[tuple[int, float]]) -> str:
    line = fit(times)
    return f"{_ms(line.latency)} ms + {_ms(line.seconds_per_byte * 2**20)} ms a MiB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def _predictions(report: Mapping[str, Any]) -> str:
    step = Step(**report["one_gpu"]["step"])
    checked = any(row["kind"] in SUMS for row in report["compared"].get("gpu", []))
    overlap = "" if checked else f" **{UNCHECKED}**"
    limits = " and ".join(f"{images:,} ({images // step.batch} GPUs) on {net}" for net, images in LINEAR_RULE.items())
    return "\n\n".join(
        [
            "## Predicted for H100 GPUs",
            f"The paper's network, {step.batch} images a GPU. **One GPU: {report['one_gpu']['source']}.**{overlap} "
            f"NVLink moves {NVLINK / 1e9:.0f} GB/s each way, a port of 400 Gb/s {PORT / 1e9:.0f}. Formulas, "
            "assumptions and their sources are in bench/scaling_model.py.",
            "Images/s of all GPUs together and, in brackets, efficiency: images/s of a GPU beside those of one alone. "
            f"A — stands where no such cluster is: NVLink alone connects {max(c.domain for c in CLUSTERS)} at most.",
            _table(
                ["", "sent as", *(_count(n, "GPU") for n in GPUS)],
                [
                    [row["cluster"], row["wire"], *(_speed(row["images_per_second"], n) for n in GPUS)]
                    for row in report["predicted"]
                ],
            ),
            f"Efficiency of {max(GPUS)} GPUs, if the forward and backward of each were slower or faster (in brackets, "
            "what one GPU alone would reach; its update, which memory bounds, takes as long as before): less hides "
            "behind a fast backward.",
            _table(
                [
                    "",
                    "sent as",
                    *(f"{f:g} × as fast ({_rounded(step.faster(f).images_per_second())} images/s)" for f in FACTORS),
                ],
                [
                    [c.name, wire, *(f"{_efficiencies(step.faster(f), [max(GPUS)], c, wire)[0]:.0f}%" for f in FACTORS)]
                    for c in CLUSTERS
                    if c.holds(max(GPUS))
                    for wire in SUMS
                ],
            ),
            "Images/s are not accuracy. The global batch grows with the GPUs, and the linear rule for the learning "
            f"rate is known to hold up to batches of {limits}; AlexNet is the one like this network (You et al. 2017, "
            "UCB/EECS-2017-156; Goyal et al. 2017, arXiv:1706.02677).",
        ]
    )


def _speed(speeds: Mapping[int, float], gpus: int) -> str:
    if gpus not in speeds:
        return "—"
    return f"{_rounded(speeds[gpus])} ({speeds[gpus] / gpus / speeds[1]:.0%})"


def _efficiencies(step: Step, counts: Sequence[int], cluster: Cluster, wire: WireFormat) -> list[float]:
    """Percent."""
    return [100 * predict(step, n, cluster, wire) / n / step.images_per_second() for n in counts]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- the figure --------------------------------------------------------------------------------------------------------

LOOKS: Mapping[str, Mapping[str, Any]] = {
    "float32": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "bfloat16": {"color": ORANGE, "linestyle": "--", "marker": "s"},
}


def draw(path: Path, report: Mapping[str, Any]) -> None:
    """Images/s and efficiency over the number of GPUs, a column for each cluster."""
    step = Step(**report["one_gpu"]["step"])
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 5), layout="constrained")
        panels = figure.subplots(2, len(CLUSTERS), sharex=True, sharey="row")
        for cluster, (speed, efficiency) in zip(CLUSTERS, panels.T, strict=True):
            _draw_cluster(speed, efficiency, cluster, step)
        panels[0, 0].set_ylabel("images/s")
        panels[1, 0].set_ylabel("efficiency (%)")
        lines = panels[1, 0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        title = f"Predicted by a model. One GPU: {report['one_gpu']['source']}"
        figure.suptitle(title, fontsize=10, fontweight="bold")
        save_figure(figure, path)


def _draw_cluster(speed: Axes, efficiency: Axes, cluster: Cluster, step: Step) -> None:
    counts = [n for n in rank_counts(max(GPUS)) if cluster.holds(n)]
    for wire in SUMS:
        look: dict[str, Any] = {"markersize": 3, "linewidth": 1.2, **LOOKS[wire]}
        speed.plot(counts, [predict(step, n, cluster, wire) for n in counts], **look)
        efficiency.plot(counts, _efficiencies(step, counts, cluster, wire), label=f"gradients in {wire}", **look)
    slower, _, faster = (_efficiencies(step.faster(factor), counts, cluster, "float32") for factor in FACTORS)
    words = f"float32, forward and backward {FACTORS[0]:g} to {FACTORS[-1]:g} times as fast"
    efficiency.fill_between(counts, slower, faster, color=BLUE, alpha=0.12, linewidth=0, label=words)
    ideal: dict[str, Any] = {"color": GREY, "linestyle": ":", "zorder": 0}
    speed.plot(counts, [n * step.images_per_second() for n in counts], **ideal)
    efficiency.plot(counts, [100.0] * len(counts), label="ideal", **ideal)
    speed.set_title(cluster.name, fontsize=9)
    speed.set(xscale="log", yscale="log")
    efficiency.set(ylim=(0, 105), xlabel=f"GPUs, {step.batch} images each")
    efficiency.set_xticks(GPUS, [str(n) for n in GPUS])
    efficiency.minorticks_off()
