"""Paths and addresses as they are printed and written: as text, and without passwords, signatures and tokens."""

import os
import re
from urllib.parse import unquote

_LIKE_A_BYTE = re.compile(r"\\(?=x[0-9a-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
REDACTED = "***"
_REDACTED = re.compile(r"\*\*\*\d*")
"""What stands for a secret, with a number where addresses differ only in it."""
_USER = re.compile(
    r"(?<![A-Za-z0-9+.\-])(?!github:)(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://|(?:https?|s?ftp|s3|gs):/(?!/))"
    r"(?!\[)(?P<user>[^/?#\s:@]{0,1000})"
    r"(?::(?!\d*(?:[/?#\s]|$))(?P<password>[^/?#\s]{0,1000}|\S{0,1000}?))?@"
)
"""scheme://user:password@ or scheme://user@, with one slash where the address became a path. A password may hold "/",
as keys of S3 do; digits before a "/" are a port. After github: stands org:repo@."""
_PARAMETER = re.compile(r"(?P<name>[?&;#][^=&;#?\s]{1,100})=(?P<value>[^&;#\s]+)")
_SECRET_NAME = re.compile(
    r"sig|token|secret|pass|pwd|auth|cred|session|hmac|jwt|policy|sas$|hdn|gda|bearer|code|ticket|nonce",
    re.IGNORECASE,
)
"""Names of parameters of signed addresses: AWS, Google, Azure, CloudFront, Akamai, and APIs with keys."""
_KEY_VALUE = re.compile(r"[^.]+")
"""A value of a parameter such as api_key or AWSAccessKeyId; with a dot it is the name of a file, as in ?key=a.wav."""
_LONG_VALUE = re.compile(r"[\w\-+/=%~]{40,}", re.ASCII)
"""A value under any name that is longer than a UUID and no file name."""
_TOKEN_SCHEMES = re.compile(r"(.*[:+])?(https?|ftps?|git|webdavs?|davs?)", re.IGNORECASE)
"""Protocols in which a user without a password may be a token; in others it names a bucket or an account."""
_ESCAPED = re.compile(r"\\x(5c|[89a-f][0-9a-f])")
_MIN_LENGTH = 6
"""A secret of this length is taken out of the rest of the text, too; a shorter one may be part of a word."""


def as_text(path: str) -> str:
    r"""Return a path as it is printed, with bytes that are not UTF-8 in the form \xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    r"""Return text in which control characters, as a name may have them, are marks such as \x1b.

    A terminal would obey them, break the line, or print the rest from right to left.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def as_name(path: str) -> str:
    r"""Return a path as tables store it: `as_text`, with \x5c for a backslash that would look like a byte's.

    Different paths have different names.
    """
    return as_text(_LIKE_A_BYTE.sub(r"\\x5c", path) if "\\x" in path else path)


def from_name(name: str) -> str:
    """Return the path that `as_name` was given."""
    return _ESCAPED.sub(lambda found: "\\" if found[1] == "5c" else chr(0xDC00 + int(found[1], 16)), name)


def without_secrets(text: str, address: str = "") -> str:
    """Put ``***`` in place of passwords, signatures, tokens and keys of addresses.

    Args:
        text: An address, or a message with addresses in it.
        address: An address whose secrets the message may repeat elsewhere, as the text of an exception does.

    Returns:
        The text; the same one if there are no secrets.
    """
    secrets: set[str] = set()
    _mask(address, secrets)
    masked = _mask(text, secrets)
    for secret in sorted(secrets, key=len, reverse=True):
        masked = masked.replace(secret, REDACTED)
    return masked


def _mask(text: str, secrets: set[str]) -> str:
    """Mask the addresses of a text and add what was masked to ``secrets``."""

    def add(secret: str) -> None:
        secrets.update(form for form in (secret, unquote(secret)) if len(form) >= _MIN_LENGTH)

    def mask_user(match: re.Match[str]) -> str:
        scheme, user, password = match["scheme"], match["user"], match["password"]
        if password and not _REDACTED.fullmatch(password):
            add(password)
            return f"{scheme}{user}:{REDACTED}@"
        is_token = password is None and _TOKEN_SCHEMES.fullmatch(scheme.rstrip(":/"))
        if user and is_token and not _REDACTED.fullmatch(user):
            add(user)
            return f"{scheme}{REDACTED}@"
        return match[0]

    def mask_parameter(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if _REDACTED.fullmatch(value):
            return match[0]
        is_key = "key" in name.lower() and _KEY_VALUE.fullmatch(value)
        if is_key or _SECRET_NAME.search(unquote(name)) or _LONG_VALUE.fullmatch(value):
            add(value)
            return f"{name}={REDACTED}"
        return match[0]

    if ":/" in text:
        text = _USER.sub(mask_user, text)
    return _PARAMETER.sub(mask_parameter, text) if "=" in text else text
