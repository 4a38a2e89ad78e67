"""Serving of SavedModels over HTTP."""
