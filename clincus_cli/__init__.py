"""The command line: a file for each group of commands.

Every file reaches the core by `import clincus`. Loading the core takes longer than anything that `clincus help` or a
completion does, so it is loaded when the first of its names is used.
"""

import importlib.util
import sys
import types

TYPE_CHECKING = False  # mypy reads this name as true; no start has to wait for `typing`


class LazyModule(types.ModuleType):
    """A module that is empty until a name of it is used. A second `import` loads that of importlib.util at once."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(name)
        self.__class__ = types.ModuleType  # type: ignore[assignment]  # from now on like any other
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def load_core_when_used() -> None:
    """Put the core among the imported modules without running its code, unless somebody has imported it already."""
    if "clincus" in sys.modules:
        return
    spec = importlib.util.find_spec("clincus")
    if spec is not None and hasattr(spec.loader, "exec_module"):  # zipimport has it since Python 3.10
        sys.modules["clincus"] = module = LazyModule("clincus")
        module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin


load_core_when_used()
