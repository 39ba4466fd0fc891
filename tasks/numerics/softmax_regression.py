"""Softmax regression with an L2 penalty, fitted to the optimum for several penalties at once.

With λ the penalty, W [K, D] the coefficients, b [K] the intercepts and n rows it minimises

    (1/n) Σ_i −log p(y_i | x_i) + (λ/2) ‖W‖²,   intercepts free,

or with weights w of the rows (1/Σw) Σ_i −w_i log p(y_i | x_i) + …, which is scikit-learn's LogisticRegression with
C = 1/(λ·n), or 2/(λ·n) for its two-class form, Σw in the place of n.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tasks.numerics.matrix_products import product
from tasks.numerics.matrix_rows import blocks_of

MAX_ITERATIONS = 1_000
# Stop when the decrease that the quadratic model still promises is under this share of the objective.
TOLERANCE = 3e-7
# Float32 logits tell no smaller decrease: where a step finds none, what is left to gain has to be under this share.
ROUNDING = 1e-4
MEMORY = 10
# Of a line search.
MOST_STEPS = 11
# Of a class that all rows are sure of; its intercept has no penalty.
LEAST_CURVATURE = 1e-8


@dataclass(frozen=True)
class Fit:
    """One optimum of the objective in the module's docstring."""

    weights: torch.Tensor
    """float64 [K, D]."""
    intercepts: torch.Tensor
    """float64 [K]."""
    penalty: float
    objective: float
    iterations: int
    converged: bool


def onward(last: Fit, before: Fit, penalty: float) -> Fit:
    """Where to begin looking for the optimum of the next penalty, above 0, of a path: on the line through the last two
    optima, which bends little over the penalty's logarithm (the predictor of Park & Hastie 2007, doi
    10.1111/j.1467-9868.2007.00607.x). A start and no optimum: its weights and intercepts alone are good for something.

    No further beyond the last one than that is from the one before, and not back.
    """
    step = math.log(before.penalty / last.penalty)
    ahead = min(max(math.log(last.penalty / penalty) / step, 0.0), 1.0) if step else 0.0
    return replace(
        last,
        weights=torch.lerp(before.weights, last.weights, 1.0 + ahead),
        intercepts=torch.lerp(before.intercepts, last.intercepts, 1.0 + ahead),
    )


def fit_path(
    Z: torch.Tensor,
    codes: torch.Tensor,
    k: int,
    penalties: Sequence[float],
    *,
    used: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    tolerance: float = TOLERANCE,
    start: Sequence[Fit] | None = None,
) -> list[Fit]:
    """Optima for P penalties at once, for centred float32 rows Z [n, D] and class numbers codes [n] < k.

    `used`, bool [F, n], asks for the optima of F parts of the rows, all at once: P fits of the first part, then of the
    second … `weights`, above 0 [n], say how much each row counts. `start`, a fit for each that is asked for, is where
    the search begins: the optima of a neighbouring penalty are near, those that `onward` tells nearer, and most of the
    way is saved.

    L-BFGS, preconditioned with the inverse of the Hessian's diagonal at the start, Σ_i p_ic(1 − p_ic)·z_ij²/n + λ. So
    Z is best given along its principal axes, where each class's block of the Hessian is nearly diagonal; the penalty
    does not mind the rotation. Logits are linear in the weights, so a line search needs no further product with the
    rows, and the products of all fits are one.
    """
    problem = _Problem.of(Z, codes, k, penalties, used, weights)
    fits_wanted, d = len(problem.penalty), Z.shape[1]
    # Parameters of every fit side by side, [B, K, D+1]: the last column holds the intercepts.
    theta = torch.zeros(fits_wanted, k, d + 1, dtype=torch.float64, device=codes.device)
    if start is None:
        theta[:, :, d] = problem.prior.log()
    else:
        for i, fit in enumerate(start):
            theta[i, :, :d], theta[i, :, d] = fit.weights, fit.intercepts
    logits = problem.logits(theta)
    loss, residual = problem.look(logits)
    value = loss + 0.5 * problem.penalty * _dot(theta[:, :, :d], theta[:, :, :d])
    gradient, inverse = problem.gradient(residual, theta), problem.inverse_diagonal(residual)
    history: list[_Pair] = []
    fits: dict[int, Fit] = {}
    live = list(range(fits_wanted))
    ended = [False] * fits_wanted  # no step lowers the objective any more
    for iteration in range(MAX_ITERATIONS + 1):
        direction = _quasi_newton(gradient, history, inverse)
        slope = _dot(gradient, direction)
        left = (-0.5 * slope / value).tolist()
        for i, index in enumerate(live):
            if left[i] <= tolerance or ended[i] or iteration == MAX_ITERATIONS:
                converged = left[i] <= (max(tolerance, ROUNDING) if ended[i] else tolerance)
                weights, intercepts = theta[i, :, :d].clone(), theta[i, :, d].clone()
                penalty = float(problem.penalty[i])
                fits[index] = Fit(weights, intercepts, penalty, float(value[i]), iteration, converged)
        keep = [i for i, index in enumerate(live) if index not in fits]
        if not keep:
            break
        if len(keep) < len(live):
            live = [live[i] for i in keep]
            problem = problem.only(keep)
            theta, logits, value = theta[keep], logits[keep], value[keep]
            gradient, inverse = gradient[keep], inverse[keep]
            direction, slope = direction[keep], slope[keep]
            history = [_Pair(pair.step[keep], pair.change[keep], pair.rho[keep]) for pair in history]
        shift = problem.logits(direction)
        found = _line_search(problem, logits, shift, theta, direction, value, slope)
        lower = found.value < value  # and so is a number
        ended = (~lower).tolist()
        step = torch.where(lower, found.step, 0.0)
        logits.addcmul_(step.float()[:, None, None], shift)
        moved = step[:, None, None] * direction
        theta = theta + moved
        value = torch.where(lower, found.value, value)
        before, gradient = gradient, problem.gradient(found.residual, theta)
        history = [*history[-MEMORY + 1 :], _Pair.of(moved, gradient - before)]
    return [fits[index] for index in range(fits_wanted)]


@dataclass(frozen=True)
class _Problem:
    """B fits on the same rows: every penalty for every part of the rows."""

    Z: torch.Tensor
    """float32 [n, D]."""
    codes: torch.Tensor
    """int64 [n]."""
    used: torch.Tensor | None
    """float32 [B, 1, n], 0/1, or the weights of the rows that are used; None where every fit uses every row alike."""
    weights: torch.Tensor | None
    """float32 [n]."""
    rows: torch.Tensor
    """float64 [B]: how many rows each fit uses, or the sum of their weights."""
    penalty: torch.Tensor
    """float64 [B]."""
    prior: torch.Tensor
    """float64 [B, K]: shares of the classes."""

    @classmethod
    def of(
        cls,
        Z: torch.Tensor,
        codes: torch.Tensor,
        k: int,
        penalties: Sequence[float],
        used: torch.Tensor | None,
        weights: torch.Tensor | None,
    ) -> "_Problem":
        parts = Z.new_ones(1, len(Z)) if used is None else used.float()
        counted = None if weights is None else weights.float()
        if counted is not None:
            parts = parts * counted
        rows = parts.sum(1, dtype=torch.float64)
        codes = codes.long()
        counts = parts.new_zeros(len(parts), k).index_add_(1, codes, parts)
        prior = (counts.double() / rows[:, None]).clamp_min(1.0 / len(Z))
        # Every penalty of the first part, then of the second …
        each = torch.arange(len(parts), device=Z.device).repeat_interleave(len(penalties))
        penalty = torch.tensor(penalties, dtype=torch.float64, device=Z.device).repeat(len(parts))
        return cls(
            Z,
            codes,
            None if used is None and counted is None else parts[each, None],
            counted,
            rows[each],
            penalty,
            prior[each],
        )

    def only(self, keep: list[int]) -> "_Problem":
        """The same for some of the fits."""
        return replace(
            self,
            used=None if self.used is None else self.used[keep],
            rows=self.rows[keep],
            penalty=self.penalty[keep],
            prior=self.prior[keep],
        )

    def logits(self, theta: torch.Tensor) -> torch.Tensor:
        """float32 [B, K, n] of parameters [B, K, D+1]."""
        p, k, _ = theta.shape
        flat = theta.float().reshape(p * k, -1)
        return product(flat[:, :-1].contiguous(), self.Z).add_(flat[:, -1:]).reshape(p, k, -1)

    def gradient(self, residual: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        p, k, n = residual.shape
        out = torch.empty_like(theta)
        out[:, :, :-1] = product(residual.reshape(p * k, n), self.Z.T).reshape(p, k, -1)
        out[:, :, -1] = residual.sum(2, dtype=torch.float64)
        out /= self.rows[:, None, None]
        out[:, :, :-1] += self.penalty[:, None, None] * theta[:, :, :-1]
        return out

    def inverse_diagonal(self, residual: torch.Tensor) -> torch.Tensor:
        """The reciprocal of the Hessian's diagonal where the residuals are these, float32 [B, K, D+1]."""
        p, k, n = residual.shape
        probability = residual.clone() if self.weights is None else residual / self.weights
        probability[:, self.codes, torch.arange(n, device=residual.device)] += 1.0
        # p(1 − p) is 0 where a row is not used: there the residual is 0 and the target 0 or 1.
        spread = probability - probability.square()
        if self.weights is not None:
            spread *= self.weights
        spread = spread.reshape(p * k, n)
        diagonal = spread.new_zeros(p * k, self.Z.shape[1] + 1)
        for at in blocks_of(self.Z):
            diagonal[:, :-1] += product(spread[:, at].contiguous(), self.Z[at].square().T)
        diagonal[:, -1] = spread.sum(1)
        diagonal = diagonal.reshape(p, k, -1) / self.rows.float()[:, None, None]
        diagonal[:, :, :-1] += self.penalty.float()[:, None, None]
        return 1.0 / diagonal.clamp_min(LEAST_CURVATURE)

    def look(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of logits [B, K, n] the mean loss of each fit, float64 [B], and the residuals, float32 [B, K, n].

        A residual is probability minus target, weighted as its row is; 0 where a row is not used.
        """
        own = self.codes.expand(len(logits), 1, -1)
        log_p = torch.log_softmax(logits, dim=1)
        told = log_p.gather(1, own)
        residual = log_p.exp_().scatter_add_(1, own, logits.new_full((1, 1, 1), -1.0).expand(own.shape))
        if self.used is not None:
            told, residual = told * self.used, residual.mul_(self.used)
        return -told.sum((1, 2), dtype=torch.float64) / self.rows, residual


@dataclass(frozen=True)
class _Point:
    """Where a line search has ended, per fit."""

    step: torch.Tensor
    value: torch.Tensor
    """Of the objective, float64 [B]."""
    residual: torch.Tensor
    """As of `look`."""


def _line_search(
    problem: _Problem,
    logits: torch.Tensor,
    shift: torch.Tensor,
    theta: torch.Tensor,
    direction: torch.Tensor,
    value: torch.Tensor,
    slope: torch.Tensor,
) -> _Point:
    """The point theta + step·direction of each fit, whose logits are logits + step·shift, at which under a third of the
    slope is left and no more than the value, or of MOST_STEPS the last before the line turns up again: its slope is
    brought to 0 by the secant through two points, or halfway between what lies before and behind the turn, where the
    convex line bends too sharply for that.
    """
    weights, move = theta[:, :, :-1], direction[:, :, :-1]
    ww, wm, mm = _dot(weights, weights), _dot(weights, move), _dot(move, move)
    before, slope_before = torch.zeros_like(slope), slope
    following = torch.ones_like(slope)
    low, high = torch.zeros_like(slope), torch.full_like(slope, torch.inf)

    def look(step: torch.Tensor) -> _Point:
        loss, residual = problem.look(torch.addcmul(logits, step.float()[:, None, None], shift))
        return _Point(step, loss + 0.5 * problem.penalty * (ww + 2 * step * wm + step**2 * mm), residual)

    for _ in range(MOST_STEPS):
        found = look(step := following)
        slope_here = _dot(found.residual, shift) / problem.rows + problem.penalty * (wm + step * mm)
        poor = (slope_here.abs() > 0.3 * slope.abs()) | ((slope_here > 0) & (found.value > value))
        if not bool(poor.any()):
            return found
        low = torch.where(poor & (slope_here < 0), step, low)
        high = torch.where(poor & (slope_here > 0), step, high)
        gap = torch.where(step == before, 1.0, step - before)
        rise = (slope_here - slope_before) / gap
        secant = step - slope_here / rise.clamp_min(1e-30)
        # Far from the optimum the slope hardly changes: never more than a factor of ten at a time.
        secant = torch.minimum(torch.maximum(secant, 0.1 * step), 10.0 * step)
        halfway = torch.where(high.isinf(), 10.0 * step, 0.5 * (low + high))
        secant = torch.where((low < secant) & (secant < high), secant, halfway)
        before, slope_before = torch.where(poor, step, before), torch.where(poor, slope_here, slope_before)
        following = torch.where(poor, secant, step)
    # Before the slope turns, a convex line is lower than where it began.
    return look(torch.where(poor & (slope_here > 0), low, step))


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of each fit's numbers [B, …], float64 [B]."""
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1)).double()


@dataclass(frozen=True)
class _Pair:
    """One remembered step and the change of the gradient over it, float32: they only say where to search."""

    step: torch.Tensor
    change: torch.Tensor
    rho: torch.Tensor
    """1/(step·change) per fit, 0 where the pair says nothing: rounding."""

    @classmethod
    def of(cls, step: torch.Tensor, change: torch.Tensor) -> "_Pair":
        along = _dot(step, change)
        tells = along > torch.finfo(torch.float32).tiny
        return cls(step.float(), change.float(), torch.where(tells, 1.0 / along, 0.0).float())


def _quasi_newton(gradient: torch.Tensor, history: list[_Pair], inverse: torch.Tensor) -> torch.Tensor:
    """−H·gradient by the two loops of L-BFGS (Nocedal 1980), the preconditioner as the first guess of H."""
    q = gradient.float()
    alphas = []
    for pair in reversed(history):
        alpha = (pair.rho * _dot(pair.step, q).float())[:, None, None]
        alphas.append(alpha)
        q.addcmul_(alpha, pair.change, value=-1.0)
    direction = q * inverse
    if history:
        last = history[-1]
        size = last.rho * _dot(last.change, last.change * inverse).float()
        direction *= torch.where(size > 0, 1.0 / size, 1.0)[:, None, None]
    for pair, alpha in zip(history, reversed(alphas), strict=True):
        beta = (pair.rho * _dot(pair.change, direction).float())[:, None, None]
        direction.addcmul_(alpha - beta, pair.step)
    return direction.double().neg_()
