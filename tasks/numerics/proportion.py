"""How far a share of some rows, a mean, or the difference of two shares may be from that of all rows."""

import numpy as np
import numpy.typing as npt

_Z = 1.959963984540054
"""Of the normal distribution 95 % lie within so many standard errors."""


def wilson_interval(hits: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927, doi 10.1080/01621459.1927.10502953), within [0, 1].

    hits: of rows with weights no whole number, which SciPy's `proportion_ci` asks for.
    """
    share = hits / n
    middle = share + _Z * _Z / (2 * n)
    half = _Z * float(np.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n)))
    whole = 1 + _Z * _Z / n
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)


def bonett_price_interval(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares of the same n rows, within [-1, 1], from how often only one of the
    two was correct: the adjusted Wald interval (Bonett & Price 2012, doi 10.3102/1076998611411915).

    Of few rows that disagree the percentiles of resampled rows say too much: of none, that there is no difference.
    """
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = _Z * ((a + b - (a - b) ** 2) / (n + 2)) ** 0.5
    return max(-1.0, a - b - half), min(1.0, a - b + half)


def mean_and_error(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    """The mean of values [N], N ≥ 1, and its standard error; infinite of one value, which does not tell it."""
    n = len(values)
    return float(values.mean()), float(values.std(ddof=1)) / n**0.5 if n > 1 else float("inf")
