"""Helpers for all modules: devices, files, packages, the terminal."""
