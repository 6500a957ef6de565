"""Axes and sweeps of an X/Y/Z plot, as data."""
