"""Completion of commands and options in bash, zsh and fish, from the parsers themselves.

    eval "$(prune-gym completion bash)"

The script that is printed needs no Python when it completes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence

Commands = Mapping[str, tuple[str, Callable[[Sequence[str]], int]]]
"""Sub-command -> one line about it, and what it calls."""

SHELLS = ("bash", "zsh", "fish")

_FILES = ("--weights", "--images", "--val", "--test", "--out", "--onnx", "--config", "--checkpoint", "--results")
"""Options whose values are files."""


def main(argv: Sequence[str] | None, commands: Commands, prog: str | None = None) -> int:
    """Print the script for a shell.

    Args:
        argv: arguments; absent means those of the process.
        commands: the sub-commands, see :data:`benchmarks.cli.COMMANDS`.
        prog: name of the command in the help text.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Print what makes a shell complete commands and options.",
        epilog='bash, zsh: eval "$(prune-gym completion bash)" in ~/.bashrc or ~/.zshrc; fish: prune-gym completion '
        "fish > ~/.config/fish/completions/prune-gym.fish",
    )
    parser.add_argument("shell", choices=SHELLS)
    sys.stdout.write(script(parser.parse_args(argv).shell, commands))
    return 0


def script(shell: str, commands: Commands) -> str:
    """The completion script of a shell."""
    options = options_of_commands(commands)
    return _fish(options) if shell == "fish" else _bash(options, zsh=shell == "zsh")


def options_of_commands(commands: Commands) -> dict[str, list[str]]:
    """Every command's options, as its own help lists them."""
    found = {}
    for name, (_, command) in commands.items():
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            if name != "completion":
                command(["--help"])
        found[name] = sorted({*re.findall(r"(?<![\w-])--[a-z][a-z-]*", text.getvalue()), "--help"})
    found["completion"] = [*SHELLS, "--help"]
    return found


def _bash(options: dict[str, list[str]], zsh: bool) -> str:
    cases = "\n".join(f"        {name}) words='{' '.join(names)}' ;;" for name, names in options.items())
    lead = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    return f"""{lead}_prune_gym() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=''
    case "$before" in
        {"|".join(_FILES)}) COMPREPLY=($(compgen -f -- "$word")); return ;;
    esac
    if [ "$COMP_CWORD" -eq 1 ]; then
        words='{" ".join(options)} --help --version'
    else case "${{COMP_WORDS[1]}}" in
{cases}
    esac; fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _prune_gym prune-gym
"""


def _fish(options: dict[str, list[str]]) -> str:
    lines = [f"complete -c prune-gym -n __fish_use_subcommand -f -a '{' '.join(options)}'"]
    for name, names in options.items():
        for option in names:
            kind = f"-l {option[2:]}" if option.startswith("--") else f"-f -a {option}"
            needs = " -r" if option in _FILES else ""
            lines.append(f"complete -c prune-gym -n '__fish_seen_subcommand_from {name}' {kind}{needs}")
    return "\n".join(lines) + "\n"
