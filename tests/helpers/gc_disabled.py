"""Importing it ends garbage collection, see `processes`."""

import gc

gc.disable()
