"""Command lines made from dataclasses, with presets and subcommands."""

import argparse
import pathlib
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union

import tyro

from experiments.common.interrupt import INTERRUPTED, exit_status, outlive_reader


class UsageError(Exception):
    """A mistake of the user's; the message says what was expected and what came."""


class Interrupted(Exception):
    """Ctrl-C came and the work is saved; the message says how to go on."""


def brief(error: Exception) -> str:
    """What an error says, in a line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 240)


def check_data(preset: str, config: Any, made_for: Mapping[str, str]) -> None:
    """Refuses a preset that is made for some data where none are given."""
    if preset in made_for and not config.data and config.dataset is None:
        raise UsageError(f"--data: expected {made_for[preset]}, which --preset {preset} is for, got none")


def check_new_file(option: str, path: pathlib.Path | None) -> None:
    """Refuses, before any work is done, a file that can't be written or is there already."""
    if path is not None and path.exists():
        raise UsageError(f"--{option}: expected a new file, {path} is there already")
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"--{option}: expected a file in a folder that is there, found no {path.parent}")


def run(
    program: str,
    description: str,
    commands: Mapping[str, tuple[Any, Callable[[Any], None]]],
    presets: Mapping[str, Any],
    argv: list[str] | None = None,
) -> int:
    """Parses the command line and runs the subcommand.

    Args:
      program: name shown in `--help`.
      description: text shown in `--help`.
      commands: for each subcommand the dataclass of its options, of which `workdir` alone has to be given, and the
        function that takes it; that of `train` has the fields `config` and `preset`.
      presets: presets by name; `train --preset NAME` changes what the other options default to.
      argv: the words behind the program's name; None takes those of this process.

    Returns:
      The exit status: 0, 2 after a mistake of the user's, 130 after Ctrl-C, 141 where nobody reads stdout.
    """
    words = sys.argv[1:] if argv is None else argv

    def command() -> int:
        try:
            parsed = _parse(program, description, commands, presets, words)
            next(function for kind, function in commands.values() if type(parsed) is kind)(parsed)
            return 0
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            return INTERRUPTED

    with outlive_reader():
        return exit_status(command)


def _parse(
    program: str,
    description: str,
    commands: Mapping[str, tuple[Any, Callable[[Any], None]]],
    presets: Mapping[str, Any],
    words: list[str],
) -> Any:
    """The options of the subcommand that was given: its dataclass, filled in."""
    preset = _preset(words, presets) if words[:1] == ["train"] else next(iter(presets))
    kinds = tuple(
        Annotated[
            kind,
            tyro.conf.subcommand(name=name, default=_defaults(name, kind, preset, presets), description=kind.__doc__),
        ]
        for name, (kind, _) in commands.items()
    )
    union: Any = Union[kinds]  # noqa: UP007, its members are known at run time only
    return tyro.cli(union, prog=program, description=description, args=words, config=(tyro.conf.OmitArgPrefixes,))


def _defaults(name: str, kind: Any, preset: str, presets: Mapping[str, Any]) -> Any:
    """The options of a subcommand where they are not given: those of `train` are the preset's."""
    chosen = {"config": presets[preset], "preset": preset} if name == "train" else {}
    return kind(workdir=tyro.MISSING, **chosen)


def _preset(words: list[str], presets: Mapping[str, Any]) -> str:
    """The preset that a command line names: it decides the defaults of all else, so it is looked up first."""
    early = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    early.add_argument("--preset", default=next(iter(presets)))
    try:
        name = early.parse_known_args(words)[0].preset
    except argparse.ArgumentError:
        name = None
    if name not in presets:
        raise UsageError(f"--preset: expected one of {', '.join(presets)}, got {name!r}")
    return str(name)
