"""Runs the installed synthesisers that speak words and play notes."""

import subprocess
from pathlib import Path

TIMEOUT_SECONDS = 300


class ProgramError(RuntimeError):
    """A program that failed, with its name and what it said."""


def run_program(command: list[str], folder: Path) -> None:
    """Run a program in ``folder``.

    Raises:
        ProgramError: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(f"{command[0]}: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[-200:]
        raise ProgramError(f"{command[0]}: status {done.returncode}{f', {said}' if said else ''}")


def installed_version(package: str) -> str:
    """Of an installed Debian package; "" where it is not known."""
    command = ["dpkg-query", "--show", "--showformat", "${Version}", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
