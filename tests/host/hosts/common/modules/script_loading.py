import importlib.util
import os
from types import ModuleType


def load_module(path: str) -> ModuleType:
    """Executed anew at every call, and in no sys.modules."""
    spec = importlib.util.spec_from_file_location(os.path.basename(path), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
