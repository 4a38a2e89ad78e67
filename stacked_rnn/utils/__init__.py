"""Helpers for all modules: devices, files, text files, the terminal."""
