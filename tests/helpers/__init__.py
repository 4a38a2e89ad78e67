"""Functions and constants that several test files share."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
