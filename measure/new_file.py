"""Writes a file that is not there yet, all of it or nothing."""

import os
import tempfile
from pathlib import Path

from planner.errors import UsageError


def write_new_file(path: Path, text: str) -> None:
    """Writes the file under another name and gives it its own when it is whole; never over another.

    Raises UsageError: output.exists, output.file_unwritable.
    """
    if os.path.lexists(path):
        raise UsageError("output.exists", path=path)
    partial = None
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        os.link(partial, path)  # which, unlike a rename, fails where something is
    except FileExistsError:
        raise UsageError("output.exists", path=path) from None
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise UsageError("output.file_unwritable", path=path, reason=reason) from None
    finally:
        if partial is not None:
            os.unlink(partial)
