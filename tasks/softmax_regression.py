"""Softmax regression with an L2 penalty, fitted to the optimum for several penalties at once.

With λ the penalty, W [K, D] the coefficients, b [K] the intercepts and n rows it minimises

    (1/n) Σ_i −log p(y_i | x_i) + (λ/2) ‖W‖²,   intercepts free,

which is scikit-learn's LogisticRegression with C = 1/(λ·n), or 2/(λ·n) for its two-class form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

MAX_ITERATIONS = 200
# Stop when the decrease that the quadratic model still promises is under this share of the objective.
TOLERANCE = 2e-8
MEMORY = 10


@dataclass(frozen=True)
class Fit:
    """One optimum of the objective in the module's docstring."""

    weights: torch.Tensor
    """float64 [K, D]."""
    intercepts: torch.Tensor
    """float64 [K]."""
    objective: float
    iterations: int
    converged: bool


def fit_path(Z: torch.Tensor, codes: torch.Tensor, k: int, penalties: Sequence[float]) -> list[Fit]:
    """Optima for P penalties at once, for centred float32 rows Z [n, D] and class numbers codes [n] < k.

    L-BFGS, preconditioned with (α·ZᵀZ/n + λ)⁻¹, where α is the softmax's mean curvature at the start (the idea
    of Böhning 1992, doi 10.1007/BF00048682, whose bound is ½). Logits are linear in the weights, so a line search
    needs no further product with Z, and the products of all penalties are one.
    """
    problem = _Problem.of(Z, codes, k, penalties)
    p, d = len(penalties), Z.shape[1]
    # Parameters of every penalty side by side, [P, K, D+1]: the last column holds the intercepts.
    theta = torch.zeros(p, k, d + 1, dtype=torch.float64, device=Z.device)
    theta[:, :, d] = problem.prior.log()
    logits = problem.logits(theta)
    zero = torch.zeros(p, dtype=torch.float64, device=Z.device)
    state = problem.along(logits, torch.zeros_like(logits), theta, torch.zeros_like(theta), zero)
    value, gradient = state.value, problem.gradient(state.residual, theta)
    history: list[_Pair] = []
    fits: dict[int, Fit] = {}
    live = list(range(p))
    for iteration in range(MAX_ITERATIONS + 1):
        direction = _quasi_newton(gradient, history, problem)
        slope = (gradient * direction).sum((1, 2))
        converged = (-0.5 * slope <= TOLERANCE * value).tolist()
        for i, index in enumerate(live):
            if converged[i] or iteration == MAX_ITERATIONS:
                weights, intercepts = theta[i, :, :d].clone(), theta[i, :, d].clone()
                fits[index] = Fit(weights, intercepts, float(value[i]), iteration, converged[i])
        keep = [i for i, index in enumerate(live) if index not in fits]
        if not keep:
            break
        if len(keep) < len(live):
            live = [live[i] for i in keep]
            problem = problem.only(keep)
            theta, logits, gradient = theta[keep], logits[keep], gradient[keep]
            direction, slope = direction[keep], slope[keep]
            history = [_Pair(pair.step[keep], pair.change[keep], pair.rho[keep]) for pair in history]
        shift = problem.logits(direction)
        step, state = _line_search(problem, logits, shift, theta, direction, slope)
        logits.addcmul_(step.float()[:, None, None], shift)
        moved = step[:, None, None] * direction
        theta = theta + moved
        value = state.value
        before, gradient = gradient, problem.gradient(state.residual, theta)
        history = [*history[-MEMORY + 1 :], _Pair.of(moved, gradient - before)]
    return [fits[index] for index in range(p)]


@dataclass(frozen=True)
class _Along:
    """The objective at a point of a line, per penalty: value, its first two derivatives along the line."""

    value: torch.Tensor
    slope: torch.Tensor
    curvature: torch.Tensor
    residual: torch.Tensor
    """float32 [P, K, n]: probability minus target."""


@dataclass(frozen=True)
class _Problem:
    Z: torch.Tensor
    target: torch.Tensor
    """float32 [K, n], 0/1."""
    penalty: torch.Tensor
    prior: torch.Tensor
    alpha: float
    inverse: torch.Tensor
    """float32 [P, D, D]: (α·ZᵀZ/n + λ)⁻¹."""

    @classmethod
    def of(cls, Z: torch.Tensor, codes: torch.Tensor, k: int, penalties: Sequence[float]) -> "_Problem":
        n, d = Z.shape
        penalty = torch.tensor(penalties, dtype=torch.float64, device=Z.device)
        target = (codes == torch.arange(k, device=Z.device)[:, None]).float()
        prior = (target.sum(1).double() / n).clamp_min(1.0 / n)
        alpha = float((prior * (1 - prior)).mean())
        gram = (Z.T @ Z).double() * (alpha / n)
        damped = gram + penalty[:, None, None] * torch.eye(d, dtype=torch.float64, device=Z.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped.float()))
        return cls(Z, target, penalty, prior, alpha, inverse)

    def only(self, keep: list[int]) -> "_Problem":
        """The same for some of the penalties."""
        return replace(self, penalty=self.penalty[keep], inverse=self.inverse[keep])

    def logits(self, theta: torch.Tensor) -> torch.Tensor:
        """float32 [P, K, n] of parameters [P, K, D+1]."""
        p, k, _ = theta.shape
        flat = theta.float().reshape(p * k, -1)
        return torch.addmm(flat[:, -1:], flat[:, :-1], self.Z.T).reshape(p, k, -1)

    def gradient(self, residual: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        p, k, n = residual.shape
        out = torch.empty_like(theta)
        out[:, :, :-1] = (residual.reshape(p * k, n) @ self.Z).reshape(p, k, -1)
        out[:, :, -1] = residual.sum(2, dtype=torch.float64)
        out /= n
        out[:, :, :-1] += self.penalty[:, None, None] * theta[:, :, :-1]
        return out

    def precondition(self, gradient: torch.Tensor) -> torch.Tensor:
        out = gradient / self.alpha
        out[:, :, :-1] = gradient[:, :, :-1].float() @ self.inverse
        return out

    def along(
        self,
        logits: torch.Tensor,
        shift: torch.Tensor,
        theta: torch.Tensor,
        direction: torch.Tensor,
        step: torch.Tensor,
    ) -> _Along:
        """The objective at theta + step·direction, whose logits are logits + step·shift."""
        n = logits.shape[2]
        at = torch.log_softmax(logits + step.float()[:, None, None] * shift, dim=1)
        probability = at.exp()
        residual = probability - self.target
        loss = -(at * self.target).sum((1, 2), dtype=torch.float64) / n
        slope = (residual * shift).sum((1, 2), dtype=torch.float64) / n
        mean = (probability * shift).sum(1, keepdim=True)
        curvature = (probability * (shift - mean).square()).sum((1, 2), dtype=torch.float64) / n
        weights, move = theta[:, :, :-1], direction[:, :, :-1]
        ww, wm, mm = ((a * b).sum((1, 2)) for a, b in ((weights, weights), (weights, move), (move, move)))
        return _Along(
            loss + 0.5 * self.penalty * (ww + 2 * step * wm + step**2 * mm),
            slope + self.penalty * (wm + step * mm),
            curvature + self.penalty * mm,
            residual,
        )


def _line_search(
    problem: _Problem,
    logits: torch.Tensor,
    shift: torch.Tensor,
    theta: torch.Tensor,
    direction: torch.Tensor,
    slope: torch.Tensor,
) -> tuple[torch.Tensor, _Along]:
    """A step per penalty that leaves under a third of the slope, by Newton's method on the convex line."""
    step = torch.ones(theta.shape[0], dtype=torch.float64, device=theta.device)
    state = problem.along(logits, shift, theta, direction, step)
    for _ in range(10):
        poor = state.slope.abs() > 0.3 * slope.abs()
        if not bool(poor.any()):
            break
        newton = step - state.slope / state.curvature.clamp_min(1e-30)
        # Far from the optimum the curvature can vanish: never more than a factor of ten at a time.
        newton = torch.minimum(torch.maximum(newton, 0.1 * step), 10.0 * step)
        step = torch.where(poor, newton, step)
        state = problem.along(logits, shift, theta, direction, step)
    return step, state


@dataclass(frozen=True)
class _Pair:
    """One remembered step and the change of the gradient over it."""

    step: torch.Tensor
    change: torch.Tensor
    rho: torch.Tensor
    """1/(step·change) per penalty, 0 where the pair says nothing: a finished penalty, or rounding."""

    @classmethod
    def of(cls, step: torch.Tensor, change: torch.Tensor) -> "_Pair":
        product = (step * change).sum((1, 2))
        return cls(step, change, torch.where(product > 0, 1.0 / product, 0.0))


def _quasi_newton(gradient: torch.Tensor, history: list[_Pair], problem: _Problem) -> torch.Tensor:
    """−H·gradient by the two loops of L-BFGS (Nocedal 1980), the preconditioner as the first guess of H."""
    q = gradient.clone()
    alphas = []
    for pair in reversed(history):
        alpha = pair.rho * (pair.step * q).sum((1, 2))
        alphas.append(alpha)
        q -= alpha[:, None, None] * pair.change
    direction = problem.precondition(q)
    if history:
        last = history[-1]
        size = last.rho * (last.change * problem.precondition(last.change)).sum((1, 2))
        direction *= torch.where(size > 0, 1.0 / size, 1.0)[:, None, None]
    for pair, alpha in zip(history, reversed(alphas), strict=True):
        beta = pair.rho * (pair.change * direction).sum((1, 2))
        direction += (alpha - beta)[:, None, None] * pair.step
    return -direction
