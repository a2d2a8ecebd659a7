"""The folder of a run: who may write there, and the configuration that a resumed run reads back."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from npconvnet.data.augment import ColourStatistics
from npconvnet.data.opening import Data
from npconvnet.errors import InputError
from npconvnet.training.log import NAME as LOG_NAME

_CONFIGURATION = "configuration.json"


@dataclass(slots=True)
class RunFolder:
    """`path`, and the `configuration` that stands there once the run has begun."""

    path: Path
    configuration: dict[str, Any]

    @classmethod
    def choose(cls, path: Path | None, model: str) -> RunFolder:
        """The folder of a new run: `path`, or a fresh one below runs/; InputError where a run stands there already."""
        if path is None:
            path = Path("runs") / f"{model}-{datetime.now():%Y%m%d-%H%M%S}"
        try:
            if (path / _CONFIGURATION).exists():
                raise InputError(_holds_a_run(path))
            if (path / LOG_NAME).exists() or any(path.glob("*.safetensors")):
                raise InputError(f"{path} holds a log or weights of something else; choose another --output")
        except OSError as error:
            raise InputError(f"{path}: cannot be used ({error.strerror}); choose another --output") from error
        return cls(path, {})

    @classmethod
    def resume(cls, path: Path) -> RunFolder:
        """The folder of a run that has begun; raises InputError where there is none."""
        file = path / _CONFIGURATION
        try:
            configuration = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path} holds no run to resume ({file.name}: {error.strerror})") from error
        except ValueError as error:
            raise InputError(f"{file}: damaged ({error}); start afresh with another --output") from error
        if not isinstance(configuration, dict) or not {"options", "data", "colours"} <= configuration.keys():
            raise InputError(f"{file}: not the configuration of a run; start afresh with another --output")
        return cls(path, configuration)

    def create(self, options: dict[str, Any], ranks: int, data: Data, colours: ColourStatistics) -> None:
        """Makes the folder and writes the configuration: options, ranks, data, colours, command and versions."""
        self.configuration = {
            "options": options,
            "ranks": ranks,
            "data": _fingerprint(data),
            "colours": {"mean": colours.mean.tolist(), "covariance": colours.covariance.tolist()},
            "command": shlex.join(["python", *sys.argv]),
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.configuration, indent=2, ensure_ascii=False)
            # "x": of two runs that begin at once, one gets the folder.
            with (self.path / _CONFIGURATION).open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            if not self.path.is_dir():
                raise InputError(f"{self.path} is a file; choose another --output") from error
            raise InputError(_holds_a_run(self.path)) from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); choose another --output") from error

    @property
    def options(self) -> dict[str, Any]:
        """The options of the run."""
        options: dict[str, Any] = self.configuration["options"]
        return options

    @property
    def ranks(self) -> int:
        """The number of ranks that the run was begun by; raises InputError where the configuration is damaged."""
        ranks = self.configuration.get("ranks")
        if not isinstance(ranks, int) or ranks < 1:
            raise InputError(f"{self.path}: the number of ranks in its configuration is damaged ({ranks!r})")
        return ranks

    @property
    def resume_command(self) -> str:
        """What to type to go on with the run."""
        return shlex.join(["python", sys.argv[0], "--resume", str(self.path)])

    def colour_statistics(self) -> ColourStatistics:
        """Those that the run began with; raises InputError where the configuration is damaged."""
        try:
            colours = self.configuration["colours"]
            mean, covariance = np.array(colours["mean"], np.float64), np.array(colours["covariance"], np.float64)
            if (mean.shape, covariance.shape) != ((3,), (3, 3)):
                raise ValueError(f"a mean of {mean.shape} and a covariance of {covariance.shape}")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.path}: the colours in its configuration are damaged ({error})") from error
        return ColourStatistics(mean, covariance)

    def require_same_data(self, data: Data) -> None:
        """Raises InputError unless `data` has the classes and the number of images that the run began with.

        Where it is prepared now, and was then, it also has to be made of the same images.
        """
        now, then = _fingerprint(data), self.configuration["data"]
        if not isinstance(then, dict):
            raise InputError(f"{self.path}: what its configuration says of the data is damaged; start afresh")
        known = [key for key in now if key != "source" or None not in (now[key], then.get(key))]
        if differing := ", ".join(key for key in known if now[key] != then.get(key)):
            raise InputError(f"{data.root} is not the data set of the run in {self.path}: it differs in {differing}")


def _holds_a_run(path: Path) -> str:
    return f"{path} already holds a run; go on with it by --resume {path}, or choose another --output"


def _fingerprint(data: Data) -> dict[str, Any]:
    return {
        "classes": [synset.wnid for synset in data.synsets],
        "training_images": len(data.train),
        "validation_images": len(data.validation),
        "source": data.source,
    }
