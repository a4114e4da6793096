"""Makes a machine with AVX-512 look like one with AVX2 to vLLM: `make test-avx2` puts this folder on PYTHONPATH.

torch and oneDNN obey ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA. vLLM chooses its library by what torch.cpu says of the
processor, which obeys neither; so that is answered here, once torch.cpu is imported.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _Lacking(Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        for name in vars(module).copy():
            if name.startswith(("_is_avx512", "_is_amx", "_is_vnni")):
                setattr(module, name, lambda: False)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "torch.cpu":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            spec.loader = _Lacking(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
