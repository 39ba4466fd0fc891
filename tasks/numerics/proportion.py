"""How far a share of some rows may be from that of all rows."""

import numpy as np


def wilson_interval(hits: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927, doi 10.1080/01621459.1927.10502953), within [0, 1].

    hits: of rows with weights no whole number, which SciPy's `proportion_ci` asks for.
    """
    z = 1.959963984540054
    share = hits / n
    middle = share + z * z / (2 * n)
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    whole = 1 + z * z / n
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)
