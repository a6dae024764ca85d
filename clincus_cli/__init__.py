"""The command line: a file for each group of commands.

Every file reaches the core by `import clincus`. Loading the core takes longer than anything that `clincus help` or a
completion does, so it is loaded when the first of its names is used.
"""

import gc
import importlib.util
import sys
import types
from _thread import RLock

TYPE_CHECKING = False  # mypy reads this name as true; no start has to wait for `typing`
LOADING = RLock()  # held while a module loads


class LazyModule(types.ModuleType):
    """A module that is empty until a name of it is used.

    importlib.util.LazyLoader would load the module at its second `import`. With that, commands that need no core would
    take 18 ms more CPU (`clincus help`: 54 instead of 36 ms).
    """

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(name)
        with LOADING:  # another thread waits until all names exist
            if self.__spec__.loader_state is None:
                self.__spec__.loader_state = "loaded"  # almost: its own code may ask for a name too early
                gc.disable()  # a module is no garbage, and a fifteenth of its loading was the search for garbage
                try:
                    self.__spec__.loader.exec_module(self)
                except BaseException:
                    # It was interrupted. Code that needs it for a clean end loads it again.
                    self.__spec__.loader_state = None
                    raise
                finally:
                    gc.enable()
                self.__class__ = types.ModuleType  # type: ignore[assignment]  # from now on like any other
        return types.ModuleType.__getattribute__(self, name)


def load_when_used(*names: str) -> None:
    """Put modules among the imported ones without running their code. Modules that are imported already stay."""
    for name in names:
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):  # zipimport has it since Python 3.10
            sys.modules[name] = importlib.util.module_from_spec(spec)
            sys.modules[name].__class__ = LazyModule


load_when_used("clincus")
