"""Plots, the table of a search, and the HTML pages about a language model."""
