"""Limits the memory of a command and of the processes that it starts."""

import resource

MAX_BYTES = 12 << 30
"""Limit of the address space; decoding the largest file of the lists needs a tenth of it."""


def limit_memory() -> None:
    """Set the limit, so that a file that decodes to more is an error of that file and does not exhaust the machine."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MAX_BYTES if hard == resource.RLIM_INFINITY else min(MAX_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
