"""The merge methods, one file per family. Importing this package registers them all.

A method imports its steps when it is called: torch takes a second to load, which whoever only lists the modes need not
wait for.
"""

# ruff: noqa: I001 (the order of registration is the order in which users see the modes)
from lib_pm.core.methods import linear
from lib_pm.core.methods import ties
from lib_pm.core.methods import dare
from lib_pm.core.methods import magnitude

__all__ = ["dare", "linear", "magnitude", "ties"]
