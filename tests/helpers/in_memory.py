"""Runs a script in a new Python, which exports as in `exports.in_memory`.

python tests/helpers/in_memory.py train.py --corpus=mine.txt
"""

import pathlib
import runpy
import sys

sys.path[0] = str(pathlib.Path(__file__).parents[2])

from stacked_rnn.utils import quiet_import

quiet_import.import_tensorflow(with_extras=False)

from tests.helpers import exports

if __name__ == "__main__":
    sys.argv.pop(0)
    with exports.in_memory():
        runpy.run_path(sys.argv[0], run_name="__main__")
