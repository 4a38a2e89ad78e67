"""Plots of results, and an HTML page of surprisal."""
