"""A roof over the memory of a command and of the processes that it starts."""

import resource

MAX_BYTES = 12 << 30
"""Address space; decoding the largest file of the lists takes a tenth of it."""


def limit_memory() -> None:
    """Make a file that decodes to more than memory an error of that file, rather than of the machine."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MAX_BYTES if hard == resource.RLIM_INFINITY else min(MAX_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
