"""A package, so that pytest keeps one browser for all of its tests, and ends it before those of other folders."""
