"""A layer curve → its trend and its inflection points.

The paper reads inflection points off a plot. Here a turn is a rule: the curve has to move away from the
point, on both sides, by more than the noise of the rows explains and by more than a small share of its own
range. Layers are scored on the same rows, so their errors are strongly correlated; all noise is therefore
that of *paired* differences.
"""

import itertools
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from tasks.numerics.cached_property import cached_property

FloatArray = npt.NDArray[np.floating]

SMALLEST_TURN = 0.10
"""A turn moves the curve by at least this share of its range on both sides: with many rows, ripples that no
one would call a turn are significant too."""

SMALLEST_KNEE = 0.15
"""A knee stands off the straight line between its neighbours by at least this share of the curve's range."""

OVERALL_FLAT = 1 / 3
"""A whole curve is flat when a straight line through it climbs or falls by less than this share of its
range."""

_FAMILY_ERROR = 0.05
_DRAWS = 1_000
_ROUNDING = 1e-7
"""Standard errors below this share of the largest are what float64 leaves of a difference of equal layers."""


class Kind(StrEnum):
    """What happens to the curve at an inflection point."""

    PEAK = "peak"
    """It rises before and falls after."""
    TROUGH = "trough"
    """It falls before and rises after."""
    KNEE = "knee"
    """Its slope breaks, but its direction does not turn round."""


class Direction(StrEnum):
    """Where a piece of the curve goes: the arrows of the paper's Table 1."""

    UP = "up"
    """It rises by more than its noise and than a ripple."""
    DOWN = "down"
    """It falls by more than its noise and than a ripple."""
    FLAT = "flat"
    """Neither."""


@dataclass(frozen=True)
class InflectionPoint:
    layer: int
    """Index into Hugging Face's hidden states."""
    kind: Kind
    relative_change: float
    """The turn as a share of the curve's range, −1 … 1. Peak (positive) and trough (negative): the smaller of
    the moves on either side. Knee: the distance from the chord of the leg that it breaks, positive above
    it."""
    strength: float
    """The same turn in standard errors of the paired difference; infinite on a curve without noise."""


@dataclass(frozen=True)
class Segment:
    segment: int
    """Counts from 0 at layer 0."""
    from_layer: int
    to_layer: int
    """Both ends belong to the segment: the next one starts at this layer."""
    direction: Direction
    relative_change: float
    """Value at the end less value at the start, as a share of the curve's range, −1 … 1."""


@dataclass(frozen=True)
class CurveShape:
    points: tuple[InflectionPoint, ...]
    """By layer. Never the first layer of the curve, nor the last one of its trend."""
    trend: tuple[Segment, ...]
    """Gapless, from layer 0 to the last comparable layer; empty for a curve of one layer."""
    direction: Direction
    """Of the curve as a whole, by the slope of the least-squares line through it: the paper's one arrow a
    curve."""


@dataclass(frozen=True)
class CurveNoise:
    """What the rows' chance does to a curve; it depends on the influence alone, so resampled curves share
    it."""

    covariance: FloatArray
    """float64 [L, L]: of the errors of the curve's values, rows being drawn anew."""
    critical: float
    """The number of standard errors that no pair of layers of a truly flat curve exceeds, in 95 % of
    draws."""

    @cached_property
    def paired(self) -> FloatArray:
        """float64 [L, L]: `paired_errors`."""
        return paired_errors(self.covariance)

    @cached_property
    def floor(self) -> float:
        """Standard errors up to this are rounding."""
        return _ROUNDING * float(self.covariance.diagonal().max()) ** 0.5


@dataclass(frozen=True)
class MeasuredCurve:
    """One layer curve with all that is known of it: everybody who reads it starts from here."""

    values: FloatArray
    """float64 [L]."""
    noise: CurveNoise
    shape: CurveShape


def measure_curve(
    values: FloatArray, influence: npt.ArrayLike, *, last_is_normed: bool = False, seed: int = 0
) -> MeasuredCurve:
    """One layer curve, its noise and its shape.

    values: float [L], the curve, layer by layer. influence: [L, N], the influence of each of N rows on each
    value (for a mean over rows: what each row contributes; for an accuracy: correct, 0 or 1; only
    differences between rows count). All zero: a curve without noise.

    last_is_normed: the last value alone was measured after the model's final norm (norm state
    `as_returned`), so it differs from its neighbour by more than one layer. It is then left out of the
    shape: the trend ends at the layer before it, and a jump into it makes no inflection point. A model with
    one block keeps both its values, since nothing else is left. `choice` still offers the last layer as a
    candidate, for its scores are its own.

    A turn is real when it exceeds both the noise and 10 % of the curve's range on either side; noise is the
    95 % quantile of the largest standardised difference of any two layers under a flat curve (the max-t of
    Hothorn, Bretz and Westfall 2008), so it allows for every pair having been looked at. Same input and
    seed, same shape. Raises ValueError for shapes that do not fit and for values that are not finite.
    """
    curve = np.asarray(values, dtype=np.float64)
    noise = curve_noise(_checked(curve, influence), seed=seed)
    return MeasuredCurve(curve, noise, curve_shape(curve, noise, last_is_normed=last_is_normed))


def find_inflection_points(
    values: FloatArray, influence: npt.ArrayLike, *, last_is_normed: bool = False, seed: int = 0
) -> CurveShape:
    """The shape alone of `measure_curve`."""
    return measure_curve(values, influence, last_is_normed=last_is_normed, seed=seed).shape


def error_covariance(influence: npt.ArrayLike) -> FloatArray:
    """float64 [L, L]: of the errors of a curve's values, from its influence [L, N] (any numeric dtype).

    The standard error of the difference of layers i and j that follows from it is exactly
    std(influence_i − influence_j) / √N.
    """
    rows = np.asarray(influence, dtype=np.float64)
    centred = rows - rows.mean(axis=1, keepdims=True)
    return centred @ centred.T / rows.shape[1] ** 2


def paired_errors(covariance: FloatArray) -> FloatArray:
    """float64 [L, L]: the standard error of the difference of each two layers, 0 on the diagonal."""
    variances = covariance.diagonal()
    return np.sqrt(np.maximum(variances[:, None] + variances - 2 * covariance, 0))


def curve_noise(influence: npt.ArrayLike, *, seed: int = 0) -> CurveNoise:
    """The noise of a curve from its influence [L, N] (any numeric dtype)."""
    covariance = error_covariance(influence)
    spread = paired_errors(covariance)
    first, second = np.nonzero(np.triu(spread > _ROUNDING * covariance.diagonal().max() ** 0.5, k=1))
    if len(first) == 0:
        return CurveNoise(covariance, critical=1.0)
    errors = draw_errors(covariance, _DRAWS, np.random.default_rng(seed))
    largest = (np.abs(errors[:, first] - errors[:, second]) / spread[first, second]).max(axis=1)
    return CurveNoise(covariance, critical=float(np.quantile(largest, 1 - _FAMILY_ERROR)))


def draw_errors(covariance: FloatArray, draws: int, rng: np.random.Generator) -> FloatArray:
    """float64 [draws, L]: normal errors with this covariance, which may be singular (equal layers)."""
    variances, axes = np.linalg.eigh(covariance)
    return (rng.standard_normal((draws, len(covariance))) * np.sqrt(np.maximum(variances, 0))) @ axes.T


def curve_shape(values: FloatArray, noise: CurveNoise, *, last_is_normed: bool = False) -> CurveShape:
    """The shape of `measure_curve`, with the noise known already: for many curves with the same rows."""
    curve = values[:-1] if last_is_normed and len(values) > 2 else values
    reach = float(np.ptp(curve))
    if len(curve) < 2:
        return CurveShape(points=(), trend=(), direction=Direction.FLAT)
    # Rounding leaves traces of 1e-16 in equal layers; without a floor they would pass for turns without
    # noise.
    if reach <= 1e-12 * max(1.0, float(np.abs(curve).max())):
        return CurveShape((), (Segment(0, 0, len(curve) - 1, Direction.FLAT, 0.0),), Direction.FLAT)
    measure = _Measure(curve, reach, noise)
    turns = _turns(measure)
    stops = [0, *(layer for layer, _ in turns), len(curve) - 1]
    points = [
        _turn(measure, stops[place], layer, stops[place + 2], kind)
        for place, (layer, kind) in enumerate(turns)
    ]
    for start, end in itertools.pairwise(stops):
        points += _knees(measure, start, end)
    points.sort(key=lambda point: point.layer)
    return CurveShape(tuple(points), _segments(measure, points), _overall(measure))


@dataclass(frozen=True)
class _Measure:
    """Moves along one curve, against its range and its noise."""

    curve: FloatArray
    reach: float
    noise: CurveNoise

    def move(self, start: int, end: int) -> tuple[float, float]:
        """From one layer to another: as a share of the range, and in standard errors."""
        size = float(self.curve[end] - self.curve[start]) / self.reach
        return size, self._strength(size, float(self.noise.paired[start, end]))

    def contrast(self, layers: list[int], weights: FloatArray) -> tuple[float, float]:
        """The same of a weighted sum of values; weights sum to 0."""
        size = float(weights @ self.curve[layers]) / self.reach
        variance = float(weights @ self.noise.covariance[np.ix_(layers, layers)] @ weights)
        return size, self._strength(size, max(variance, 0.0) ** 0.5)

    def _strength(self, size: float, error: float) -> float:
        if abs(size) < 1e-9:
            return 0.0
        return abs(size) * self.reach / error if error > self.noise.floor else float("inf")

    def is_real(self, start: int, end: int) -> bool:
        size, strength = self.move(start, end)
        return abs(size) >= SMALLEST_TURN and strength >= self.noise.critical


def _turns(measure: _Measure) -> list[tuple[int, Kind]]:
    """Layers where the curve really turns round, ends left out: a zigzag that only real moves can turn."""
    curve = measure.curve
    turns: list[tuple[int, Kind]] = []
    highest = lowest = 0  # since the last turn; the shallowest of equals
    heading = 0  # +1 up, −1 down, 0 not known yet: until then there is nothing to turn from
    for layer in range(1, len(curve)):
        if curve[layer] > curve[highest]:
            highest = layer
        if curve[layer] < curve[lowest]:
            lowest = layer
        if heading >= 0 and highest < layer and measure.is_real(highest, layer):
            turn, kind = highest, Kind.PEAK
        elif heading <= 0 and lowest < layer and measure.is_real(lowest, layer):
            turn, kind = lowest, Kind.TROUGH
        else:
            continue
        if heading != 0:
            turns.append((turn, kind))
        heading = -1 if kind is Kind.PEAK else 1
        since = curve[turn : layer + 1]
        highest, lowest = turn + int(since.argmax()), turn + int(since.argmin())
    return turns


def _turn(measure: _Measure, before: int, at: int, after: int, kind: Kind) -> InflectionPoint:
    # The ends of the curve are no turns, so beside one the leg's own extreme is what the turn is measured
    # from.
    farthest = np.argmin if kind is Kind.PEAK else np.argmax
    left = before + int(farthest(measure.curve[before : at + 1]))
    right = at + int(farthest(measure.curve[at : after + 1]))
    moves = [measure.move(left, at), measure.move(right, at)]
    size = min((size for size, _ in moves), key=abs)
    return InflectionPoint(at, kind, size, min(strength for _, strength in moves))


def _knees(measure: _Measure, start: int, end: int) -> list[InflectionPoint]:
    """Slope breaks inside one leg: its farthest layer from the chord, then again on both sides of it
    (Douglas and Peucker 1973), as long as that distance is real."""
    if end - start < 2:
        return []
    curve, share = measure.curve, np.arange(1, end - start) / (end - start)
    distance = curve[start + 1 : end] - (1 - share) * curve[start] - share * curve[end]
    farthest = int(np.abs(distance).argmax())
    layer, part = start + 1 + farthest, float(share[farthest])
    size, strength = measure.contrast([layer, start, end], np.array([1.0, part - 1.0, -part]))
    if abs(size) < SMALLEST_KNEE or strength < measure.noise.critical:
        return []
    knee = InflectionPoint(layer, Kind.KNEE, size, strength)
    return [*_knees(measure, start, layer), knee, *_knees(measure, layer, end)]


def _segments(measure: _Measure, points: list[InflectionPoint]) -> tuple[Segment, ...]:
    stops = [0, *(point.layer for point in points), len(measure.curve) - 1]
    segments = []
    for number, (start, end) in enumerate(itertools.pairwise(stops)):
        size, _ = measure.move(start, end)
        direction = Direction.FLAT
        if measure.is_real(start, end):
            direction = Direction.UP if size > 0 else Direction.DOWN
        segments.append(Segment(number, start, end, direction, size))
    return tuple(segments)


def _overall(measure: _Measure) -> Direction:
    last = len(measure.curve) - 1
    steps = np.arange(last + 1) - last / 2
    climb, strength = measure.contrast(list(range(last + 1)), steps / (steps @ steps) * last)
    if abs(climb) < OVERALL_FLAT or strength < measure.noise.critical:
        return Direction.FLAT
    return Direction.UP if climb > 0 else Direction.DOWN


def _checked(curve: FloatArray, influence: npt.ArrayLike) -> npt.NDArray:
    rows = np.asarray(influence)
    if curve.ndim != 1 or len(curve) == 0 or rows.ndim != 2 or len(rows) != len(curve) or rows.shape[1] == 0:
        raise ValueError(
            f"values {curve.shape} and influence {rows.shape} are not [L] and [L, N], L and N ≥ 1"
        )
    for name, finite in (("values", np.isfinite(curve)), ("influence", np.isfinite(rows).all(axis=1))):
        if not finite.all():
            raise ValueError(f"{name} of layer {int(np.argmin(finite))} are not finite numbers")
    return rows
