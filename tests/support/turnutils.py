"""coturn's own tools as clients of a test."""
import os
import pathlib
import subprocess
import tempfile

from relay import BUILD, need_program

SOURCE = (pathlib.Path(__file__).resolve().parents[1] / "interop" / "turnutils" /
          "rfc8656_channels.c")


def with_channels():
    """turnutils_uclient's environment: a preload keeps its channel numbers in RFC 8656's range,
    0x4000 to 0x4FFF."""
    folder = BUILD.parent / "interop"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "rfc8656_channels.so"
    # Test files run beside each other: what stands there under this name is always whole.
    with tempfile.TemporaryDirectory(dir=folder) as made:
        fresh = pathlib.Path(made) / library.name
        subprocess.run([need_program("gcc", "g++"), "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC",
                        "-shared", "-o", str(fresh), str(SOURCE), "-ldl"], check=True)
        fresh.rename(library)
    return {**os.environ, "LD_PRELOAD": str(library)}
