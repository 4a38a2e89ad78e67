"""Importing it begins garbage collection, of what is made from then on."""

import gc

gc.freeze()
gc.enable()
