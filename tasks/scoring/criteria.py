"""Scores of one layer that need no gradient training, in one registry.

Adding one is one function from `Features` to a number, under the `criterion` decorator. All but two look at
standardised features (mean 0, deviation 1 over the rows given): the features that the probe sees, and the only
space in which one massive activation does not decide everything. `anisotropy` and `top_variance_share` are about
just that imbalance and look at the features as they are.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from storage.errors import UserError
from tasks.numerics.matrix_products import product
from tasks.scoring.closed_form_silhouette import closed_form_samples
from tasks.scoring.features import Features, features_of
from tasks.scoring.ridge import ridge_leave_one_out, squared_error_of_none
from tasks.scoring.target import loss_of_none
from tasks.vocabulary import Metric, Space

TOP_DIMENSIONS = 3
# Criteria that look at the nearest rows: finding these takes longest, and leaves a core to the decomposition.
OF_SINGLE_ROWS = frozenset({"knn_loo", "class_mean_loo"})
"""Those that leave out one row at a time, whichever text it is of."""
OF_NEIGHBOURS = frozenset({"knn_loo", "intrinsic_dimension"})
# A share of the targets that float32 products leave unexplained by rounding alone.
FIT_SHARE = 1e-5
# Two distances are equal but for rounding up to this log ratio.
EQUAL_DISTANCES = 1e-6
# Eigenvalues are equal but for rounding up to this share of their mean.
EQUAL_EIGENVALUES = 1e-6
# A row is as near to its own class as to another but for rounding up to this silhouette.
EQUAL_CLASSES = 1e-6


CRITERIA: dict[str, Callable[[Features], float]] = {}
"""Name → function. Those with labels are higher where classes separate better; those without describe the layer. What
is to be told is no class where `features.target` says so: the three of ridge regression read it, all others classes."""


def criterion(score: Callable[[Features], float]) -> Callable[[Features], float]:
    """Enter a function into CRITERIA under its own name."""
    CRITERIA[score.__name__] = score
    return score


def check_criteria(names: Sequence[str]) -> None:
    """Raise UserError, with those there are, where a name is not in the registry."""
    for name in names:
        if name not in CRITERIA:
            raise UserError(
                f"There is no criterion '{name}'. Those known are: {', '.join(sorted(CRITERIA))}."
            )


def score_criteria(
    X: np.ndarray | torch.Tensor | Features,
    y: np.ndarray | torch.Tensor | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Criteria of one layer, all of them or those named: name → value.

    Ask for several at once, or hand over one `Features`, and what they share is computed once. Raises UserError
    where a name is unknown, or where a value comes out that is not a finite number.
    """
    asked = tuple(CRITERIA) if names is None else names
    check_criteria(asked)
    features = features_of(X, y)
    prepare_criteria(features, asked)
    values = {}
    for name in asked:
        value = CRITERIA[name](features)
        if not np.isfinite(value):
            raise UserError(
                f"The criterion '{name}' came out as {value} on {features.n} rows of {features.width} features in "
                f"{len(features.labels)} classes. Leave it out, or check the embeddings for constant rows."
            )
        values[name] = value
    return values


def prepare_criteria(features: Features, names: Sequence[str]) -> None:
    """Compute what several of these criteria share, where some of them look at neighbours and others do not."""
    of_neighbours = OF_NEIGHBOURS.intersection(names)
    if of_neighbours and len(of_neighbours) < len(set(names)):
        features.prepare()


# With labels


@criterion
def logme(features: Features) -> float:
    """Log marginal evidence of a Bayesian linear model, per row and class, in nats (You et al. 2021, LogME).

    arXiv 2102.11005, algorithm 1: for each one-hot target the evidence at the α and β that maximise it, found by the
    fixed point α = γ/‖m‖², β = (N − γ)/‖y − Zm‖². Features and targets are centred, which is an intercept with a
    flat prior and leaves N − 1 degrees of freedom in the place of N.
    """
    spectrum, n = features.spectrum, features.n - 1
    s = spectrum.square[:, None]
    x = spectrum.targets.square()
    # What all directions together leave unexplained. A perfect fit leaves rounding, which must not decide the evidence.
    whole = features.counts * (1.0 - features.counts / features.n)
    missed = torch.maximum(whole - x.sum(0), FIT_SHARE * whole)
    ratio = torch.ones_like(missed)  # α/β
    for _ in range(200):
        size, residual = (s * x / (s + ratio).square()).sum(0), _residual(x, s, ratio) + missed
        gamma = (s / (s + ratio)).sum(0)
        # Without signal α, with a perfect fit β runs away; the evidence has long settled by then.
        alpha = gamma / size.clamp_min(1e-10)
        beta = (n - gamma).clamp_min(1e-10) / residual.clamp_min(1e-10)
        before, ratio = ratio, (alpha / beta).clamp(1e-10, 1e14)
        if bool(((ratio - before).abs() <= 1e-6 * before).all()):
            break
    # At a given ratio the best β is known; taking it keeps the value an evidence, settled or not.
    size, residual = (s * x / (s + ratio).square()).sum(0), _residual(x, s, ratio) + missed
    beta = n / (residual + ratio * size).clamp_min(1e-10)
    determinant = (ratio + s).log().sum(0) - len(s) * ratio.log()
    evidence = 0.5 * (n * (beta.log() - 1.0 - float(np.log(2 * np.pi))) - determinant)
    return float((evidence / n).mean())


def _residual(x: torch.Tensor, s: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    return (x * (ratio / (s + ratio)).square()).sum(0)


@criterion
def h_score(features: Features) -> float:
    """Between-class variance after whitening, tr(Σ⁻¹ Σ_between), shrunk: from 0 to at most K − 1.

    Bao et al. 2019 (doi 10.1109/ICIP.2019.8803726), with the Ledoit–Wolf shrinkage δ of Σ and the factor 1 − δ of
    Ibrahim, Ponomareva & Mazumder 2022, arXiv 2110.06893.
    """
    spectrum, n, width = features.spectrum, features.n, features.width
    values = spectrum.square / n
    scale = float(features.row_squares.sum()) / n / width
    if scale == 0.0:
        return 0.0
    spread = float(values.square().sum())
    distance = (spread - width * scale**2) / width
    noise = (float(features.row_squares.square().sum()) / n - spread) / n / width
    # A covariance that is a multiple of the identity, as that of one feature, needs no shrinking.
    delta = max(min(noise, distance), 0.0) / distance if distance > 1e-6 * scale**2 else 0.0
    # Squared coordinates of the class means on the right singular vectors, weighted by class size.
    between = (spectrum.square[:, None] * spectrum.targets.square() / (features.counts * n)).sum(1)
    return float((1 - delta) * (between / ((1 - delta) * values + delta * scale)).sum())


@criterion
def ridge_loo(features: Features) -> float:
    """Accuracy of `ridge_leave_one_out`, a fraction 0–1; of a target the mean of what it calls right."""
    return features.once(ridge_leave_one_out).accuracy


@criterion
def ridge_loo_r2(features: Features) -> float:
    """Share of the labels' left-out squared error that the layer takes away, at most 1; 0 is the class shares' own.

    Predicted R² = 1 − PRESS/PRESS₀ (Allen 1974, doi 10.1080/00401706.1974.10489157) of `ridge_leave_one_out`, PRESS₀
    that of no features at all. A proper score: it moves with every row's margin, where a hit rate counts crossings.
    """
    without = squared_error_of_none(features) * features.unit**2
    return 1.0 - features.sum_over_rows(features.once(ridge_leave_one_out).squared_error) / without


@criterion
def ridge_loo_information(features: Features) -> float:
    """Share of the labels' entropy that the left-out values of `ridge_leave_one_out` tell, at most 1.

    McFadden's R² = 1 − log loss/entropy (1974), each row by the fit without it, after one temperature for all rows; a
    proper score as well. Below 0 where the values mislead. Of several labels, of their summed entropies; of a number it
    is `ridge_loo_r2` but for the factor ((n − 1)/n)², where rows are left out one at a time.
    """
    if features.target is None:
        share = features.class_weights / features.n
        entropy = -float((share * share.log()).sum())
    else:
        entropy = loss_of_none(features.target)
    return 1.0 - features.sum_over_rows(features.once(ridge_leave_one_out).log_loss) / features.n / entropy


@criterion
def class_mean_loo(features: Features) -> float:
    """Leave-one-out accuracy of the nearest class mean, 0–1; a class of one row has no mean without it.

    The nearest-centroid classifier (Tibshirani et al. 2002, doi 10.1073/pnas.082099299, without shrinkage). With a
    row left out, its own mean moves away from it by n/(n − 1).
    """
    means, counts, squares = features.class_means, features.counts, features.row_squares

    def hits(at: slice) -> int:
        rows, codes = features.standardised[at].double(), features.codes[at]
        distance = squares[at, None] - 2.0 * product(rows, means) + means.square().sum(1)
        others = counts[codes] - 1.0
        own = distance.gather(1, codes[:, None])[:, 0] * (counts[codes] / others.clamp_min(1.0)).square()
        own = torch.where(others > 0, own, torch.inf)
        return int((distance.scatter(1, codes[:, None], own[:, None]).argmin(1) == codes).sum())

    return sum(features.over_blocks(hits)) / features.n


@criterion
def knn_loo(features: Features) -> float:
    """Leave-one-out accuracy of the NEIGHBOURS nearest rows' vote, 0–1; a tie goes to the nearest of the tied.

    Cover & Hart 1967, doi 10.1109/TIT.1967.1053964; Euclidean.
    """
    labels = features.codes[features.neighbours.index]
    votes = (labels[:, :, None] == labels[:, None, :]).sum(2)
    # argmax gives the first of equals, and neighbours are sorted by distance.
    winner = labels.gather(1, votes.argmax(1, keepdim=True))[:, 0]
    return float((winner == features.codes).double().mean())


@criterion
def class_separation(features: Features) -> float:
    """Share of the variance that lies between class means, tr(S_between)/tr(S_total), 0–1.

    It is F/(1 + F) for Fisher's trace ratio F = tr(S_between)/tr(S_within) (Fisher 1936, Fukunaga 1990), so it
    ranks as F does, and stays finite where classes are points.
    """
    total = float(features.row_squares.sum())
    between = float((features.counts * features.class_means.square().sum(1)).sum())
    return min(between / total, 1.0) if total > 0 else 0.0


@criterion
def whitened_silhouette(features: Features) -> float:
    """Share of rows that lie nearer to their own class than to any other, macro-averaged over the classes, 0–1.

    That is where the silhouette (Rousseeuw 1987, doi 10.1016/0377-0427(87)90125-7) of cosine distances is positive,
    after the standardised features were whitened by (C + I)/2, their covariance shrunk half way to the identity (as by
    Ledoit & Wolf 2004, doi 10.1016/S0047-259X(03)00096-4, but for the fixed share). Without whitening a few directions
    that many layers share decide every distance. The share and not the mean, which rows that coincide lift: at layer 0
    the last token of most texts is the same. Classes count alike, since rows of a large and manifold class lie nearer
    by chance to one of several small ones, and the better those hold together, the more so.
    """
    spectrum = features.spectrum
    values = spectrum.square / features.n
    if len(values) == 0:
        return 0.0
    # U·s is the rows along the axes of C; cosine does not mind a common factor.
    rows = spectrum.left * (values / (values + 1.0)).sqrt().float()
    samples = closed_form_samples(
        rows, features.codes.cpu().numpy(), len(features.counts), Metric.COSINE, Space.RAW
    )
    nearer = torch.bincount(
        features.codes, (samples > EQUAL_CLASSES).double(), minlength=len(features.counts)
    )
    return float((nearer / features.counts).mean())


@criterion
def loes(features: Features) -> float:
    """Minus the score by which LOES takes its first layer: training error of least squares, and 1 − isotropy.

    Batra et al. 2026, arXiv 2605.23033, in our reading: the mean squared residual of the one-hot labels over rows and
    classes, plus one, less the mean of the covariance's eigenvalues over their deviation. Of the features as they are;
    its tiny ridge (0.001 on the sum over rows) is left out. Unbounded above where all directions vary alike.
    """
    spectrum, n = features.spectrum, features.n
    whole = features.counts * (1.0 - features.counts / n)
    missed = (whole - spectrum.targets.square().sum(0)).clamp_min(0.0)
    error = float(missed.sum()) / n / len(features.counts)
    # Trace and sum of squares are of the whole matrix: its eigenvalues themselves are not needed.
    covariance = features.product_sums / n
    mean = float(covariance.trace()) / features.width
    if mean == 0.0:
        return -error - 1.0
    deviation = max(float(covariance.square().sum()) / features.width - mean**2, 0.0) ** 0.5
    return mean / max(deviation, EQUAL_EIGENVALUES * mean) - error - 1.0


# Without labels


@criterion
def effective_rank(features: Features) -> float:
    """exp of the entropy of the singular values' shares, from 1 to min(N, D) (RankMe: Garrido et al. 2023).

    arXiv 2210.02885, after Roy & Vetterli 2007; of the standardised rows, so a massive feature counts as one.
    """
    singular = features.spectrum.square.sqrt()
    if len(singular) == 0:
        return 1.0
    share = singular / singular.sum()
    return float((-(share * share.log()).sum()).exp())


@criterion
def anisotropy(features: Features) -> float:
    """Mean cosine of two different rows as they are, −1/(N − 1) to 1 (Ethayarajh 2019, doi 10.18653/v1/D19-1006).

    A row of zeros has cosine 0 with every other.
    """

    def unit_rows(at: slice) -> torch.Tensor:
        rows = features.rows[at].double()
        if features.rows.dtype == torch.float64:  # whose squares may leave the range
            peak = rows.abs().amax(1, keepdim=True)
            rows = rows / torch.where(peak > 0, peak, 1.0)
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        unit = rows.mul_(torch.where(norm > 0, 1.0 / norm, 0.0))
        return torch.cat([unit.sum(0), (norm > 0).double().sum(0)])

    total = torch.stack(features.over_blocks(unit_rows)).sum(0)
    return float(total[:-1].square().sum() - total[-1]) / (features.n * (features.n - 1))


@criterion
def top_variance_share(features: Features) -> float:
    """Share of the total variance in the TOP_DIMENSIONS features that vary most, 0–1: massive activations.

    Sun et al. 2024, arXiv 2402.17762, describe them; of the features as they are.
    """
    deviation = features.deviation
    peak = deviation.max()
    if float(peak) == 0.0:
        return 0.0
    variance = (deviation / peak).square()
    return float(variance.topk(min(TOP_DIMENSIONS, len(variance))).values.sum() / variance.sum())


@criterion
def intrinsic_dimension(features: Features) -> float:
    """TwoNN: the dimension that the ratio of second to first neighbour distance implies, at least 0.

    Facco et al. 2017, doi 10.1038/s41598-017-11873-y: slope through the origin of −log(1 − i/N) against the i-th
    smallest log ratio, the largest tenth left out. Rows at distance 0 of another count once less: they have no
    ratio. 0 where no ratio is left above 1.
    """
    distance = features.neighbours.distance.double()
    if distance.shape[1] < 2:
        return 0.0
    first, second = distance[:, 0], distance[:, 1]
    ratio = (second[first > 0] / first[first > 0]).log().sort().values
    ratio = torch.where(ratio > EQUAL_DISTANCES, ratio, 0.0)
    n = len(ratio)
    used = ratio[: int(0.9 * n)]
    expected = -torch.log1p(
        -torch.arange(1, len(used) + 1, dtype=torch.float64, device=ratio.device) / max(n, 1)
    )
    square = float(used.square().sum())
    return float((used * expected).sum()) / square if square > 0 else 0.0
