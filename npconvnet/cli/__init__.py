"""The `npconvnet` command, one function a subcommand, and no arithmetic. What a command needs is imported inside it."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from npconvnet.cli import classification, data, localization, visualization, weights
from npconvnet.errors import InputError
from npconvnet.memory import keep_freed_memory


def run(command: click.Command) -> NoReturn:
    """Runs `command` on the command line; what a user can put right ends in one line and exit status 2."""
    try:
        sys.exit(command.main(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _refuse(error.format_message())
    except InputError as error:
        _refuse(str(error))
    except MemoryError as error:
        _refuse(f"there is not enough memory ({error}); try smaller batches")
    except (KeyboardInterrupt, click.Abort):
        _end("interrupted", 130)


def _refuse(message: str) -> NoReturn:
    _end(f"error: {' '.join(message.split())}", 2)


def _end(line: str, status: int) -> NoReturn:
    from npconvnet.training.distributed.ranks import fail

    fail(line, status)


def main() -> NoReturn:
    """The entry point of the `npconvnet` command."""
    keep_freed_memory()
    run(commands)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """A convolutional network whose every forward and backward is written out by hand."""


for _command in (
    data.make_toy,
    data.prepare,
    classification.classify,
    classification.evaluate,
    visualization.saliency,
    visualization.class_model,
    visualization.compare,
    visualization.sanity_check,
    visualization.top_patches,
    visualization.filters,
    localization.localize,
    localization.evaluate_localization,
    weights.import_weights,
    weights.export_onnx,
    weights.export_torchvision,
):
    commands.add_command(_command)
