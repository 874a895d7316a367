"""Reports that can be sent to someone: a page in one file, plots, and tables for other programs."""
