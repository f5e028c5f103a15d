"""Runs the installed synthesizers that speak words and play notes."""

import subprocess
from pathlib import Path

TIMEOUT_SECONDS = 300


class ProgramError(RuntimeError):
    """A program that failed; the message holds its name and the end of its error output."""


def run_program(command: list[str], folder: Path) -> None:
    """Run a program in ``folder``.

    Raises:
        ProgramError: It failed or exceeded the time limit.
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
        message = " ".join(done.stderr.split())[-200:]
        raise ProgramError(f"{command[0]}: exit status {done.returncode}{f', {message}' if message else ''}")


def installed_version(package: str) -> str:
    """The version of an installed Debian package; "" if it cannot be found."""
    command = ["dpkg-query", "--show", "--showformat", "${Version}", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
