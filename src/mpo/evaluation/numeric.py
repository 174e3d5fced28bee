"""numpy for this package: it belongs to the extra `eval`, and is asked for in one place."""

from __future__ import annotations

from ..errors import MissingExtraError

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:
    raise MissingExtraError("numpy", "eval") from error

__all__ = ["Floats", "Ints", "np"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
