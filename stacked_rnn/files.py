"""Files that are there whole, or not at all."""

import contextlib
import pathlib


@contextlib.contextmanager
def whole_file(path, **options):
    """Opens a file that takes its name once the block is done.

    Args:
        path: of the file; what was there before stays until then, and for good
            where the block fails.
        **options: for text, as `open` takes them; bytes without.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "w" if options else "wb", **options) as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
