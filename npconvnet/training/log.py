"""The log of a run: one JSON object a line, and the same as TensorBoard events where that extra is installed."""

from __future__ import annotations

import atexit
import importlib.util
import json
from pathlib import Path
from typing import Any

from npconvnet.errors import InputError

NAME = "log.jsonl"
#: What a record of each event has at least.
_FIELDS = {
    "step": {"step", "loss"},
    "epoch": {"step", "epoch", "training_loss", "validation_loss", "top1_error", "top5_error"},
    "other": {"event", "step"},
}


class Log:
    """Appends records to `folder`/log.jsonl. Records have an "event" and a "step"; numbers in them become curves."""

    def __init__(self, folder: Path, step: int = 0, epochs: int = 0) -> None:
        """Goes on after `step` steps and `epochs` epochs: what was recorded later will be recorded again."""
        self.path = folder / NAME
        self._cut(step, epochs)
        self._events = _event_writer(folder, step + 1)

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Adds one record; raises InputError where it can't be written."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"event": event, "step": step, **fields}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from error
        if self._events is not None:
            for name, value in fields.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(f"{event}/{name}", value, step)

    def _cut(self, step: int, epochs: int) -> None:
        records = read_log(self.path.parent)
        kept = [r for r in records if r["step"] <= step and (r["event"] != "epoch" or r["epoch"] <= epochs)]
        temporary = self.path.with_name(f".{NAME}.tmp")
        try:
            temporary.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept), encoding="utf-8")
            temporary.replace(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from error


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run; lines that a crash cut off or damaged are left out."""
    path, records = folder / NAME, []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and _FIELDS.get(str(record.get("event")), _FIELDS["other"]) <= record.keys():
            records.append(record)
    return records


def _event_writer(folder: Path, first_step: int) -> Any:
    if importlib.util.find_spec("tensorboardX") is None:
        return None
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
    atexit.register(writer.close)  # events that wait in its queue are written, however the run ends
    return writer
