"""ringflow: persistent GPU kernels that are checkpointed, migrated and reloaded while they work.

The public names and their types are in ``__init__.pyi``; each is imported when it is first used, so
that importing the package is quick.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
