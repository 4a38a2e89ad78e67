"""Results for people to look at: plots, and a page of coloured text."""
