"""What an object may be called."""

from storage.errors import BadKey

STAGING = ".staging"
"""Name of the folders that hold unfinished work. They are never listed and never read."""


def check_key(key: str) -> str:
    """Returns `key`, or raises BadKey: absolute, "..", ".", empty or reserved parts, control characters, > 1,024
    bytes.
    """
    for part in key.split("/"):
        if part in ("", ".", "..", STAGING):
            raise BadKey(f"the key {key!r} has the part {part!r}; keys are relative, without '.', '..' and {STAGING!r}")
    if any(c < " " or c == "\x7f" for c in key):
        raise BadKey(f"the key {key!r} holds a control character")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise BadKey(f"the key {key!r} is not valid Unicode") from None
    if size > 1024 or any(len(part.encode()) > 255 for part in key.split("/")):
        raise BadKey(f"the key {key[:40]!r}… has {size} bytes; at most 1,024, and 255 between slashes, are possible")
    return key


def check_prefix(prefix: str) -> str:
    """Like `check_key` for the start of a key: "" and a trailing "/" are fine."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def is_staging(key: str) -> bool:
    return STAGING in key.split("/")
