"""The one place where trouble in reading a file becomes the project's error."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib_pm.core.errors import MergeInputError
from lib_pm.files.header import Damaged, OtherKind


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the file system says inside, and a damaged header, into a MergeInputError that names the file."""
    if "\0" in str(path):
        raise MergeInputError(f"{str(path)!r} is not a path: it contains a null byte.")
    try:
        yield
    except FileNotFoundError as error:
        raise MergeInputError(f"{path} does not exist; give a LoRA's .safetensors file.") from error
    except OSError as error:
        hint = "; use fewer LoRAs at a time" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
        raise MergeInputError(f"{path} cannot be read: {error.strerror or error}{hint}.") from error
    except OtherKind as error:
        raise MergeInputError(f"{path.name} is {error}; give a LoRA's .safetensors file.") from error
    except Damaged as error:
        raise MergeInputError(f"{path.name} is not a .safetensors file, or is damaged or cut off: {error}.") from error
