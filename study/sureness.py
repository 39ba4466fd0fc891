"""How sure a layer's nearness to the best is: three numbers fitted on the study's curves, and how they do elsewhere.

Every layer of every curve is a case: was its accuracy within NEAR of the best, the best found on one half of the test
rows and measured on the other? Cases of a data set weigh one together, and the layer that would be chosen as much as
ten others, since its sureness is what people read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from study.curves import Curve
from study.measures import split_regret
from tasks.choosing.expectation import NEAR, sureness

BINS = 10
CHOSEN_WEIGHT = 10.0


@dataclass(frozen=True)
class Cases:
    """One entry a layer of a curve, [C] each."""

    chance: NDArray[np.float64]
    regret: NDArray[np.float64]
    is_near: NDArray[np.float64]
    """0 or 1."""
    is_chosen: NDArray[np.bool_]
    weight: NDArray[np.float64]
    rows: NDArray[np.int64]
    """Train rows that were asked for."""
    dataset: NDArray[np.str_]
    model: NDArray[np.str_]

    def where(self, which: NDArray[np.bool_]) -> "Cases":
        """Some of them."""
        return Cases(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def cases_of(asked: Sequence[tuple[int, Curve]]) -> Cases:
    """(train rows asked for, curve) → the cases of all layers."""
    columns: dict[str, list[object]] = {name: [] for name in Cases.__dataclass_fields__}
    curves_of: dict[tuple[int, str], int] = {}
    for rows, curve in asked:
        curves_of[rows, curve.dataset] = curves_of.get((rows, curve.dataset), 0) + 1
    for rows, curve in asked:
        expected = curve.expectation
        chosen = int(expected.mean.argmax())
        for layer in range(curve.last + 1):
            columns["chance"].append(expected.chance(layer))
            columns["regret"].append(expected.regret(layer))
            columns["is_near"].append(float(split_regret(curve, layer) <= NEAR))
            columns["is_chosen"].append(layer == chosen)
            columns["weight"].append(1.0 / curves_of[rows, curve.dataset] / (curve.last + 1))
            columns["rows"].append(rows)
            columns["dataset"].append(curve.dataset)
            columns["model"].append(curve.model)
    return Cases(**{name: np.array(values) for name, values in columns.items()})


def fit(cases: Cases) -> tuple[float, float, float]:
    """The numbers of SURENESS: logistic regression of `is_near`, by maximum likelihood."""
    weight = cases.weight * np.where(cases.is_chosen, CHOSEN_WEIGHT, 1.0)

    def loss(numbers: NDArray[np.float64]) -> float:
        told = predict(cases, numbers)
        logs = cases.is_near * np.log(told + 1e-12) + (1 - cases.is_near) * np.log(1 - told + 1e-12)
        return -float((weight * logs).sum())

    a, b, c = minimize(loss, np.array([1.0, 0.2, -0.4])).x
    return float(a), float(b), float(c)


def predict(cases: Cases, numbers: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """The sureness of every case."""
    a, b, c = numbers
    return np.asarray(sureness(cases.chance, cases.regret, (a, b, c)), np.float64)


def left_out(cases: Cases, by: NDArray[np.str_]) -> NDArray[np.float64]:
    """The sureness of every case by numbers fitted on all other data sets (or models)."""
    told = np.zeros(len(by))
    for name in np.unique(by):
        told[by == name] = predict(cases.where(by == name), fit(cases.where(by != name)))
    return told


def reliability(told: NDArray[np.float64], cases: Cases) -> list[dict[str, float]]:
    """One row a tenth of the sureness that occurs: how many cases (share of the weight), told, and found."""
    rows = []
    for number in range(BINS):
        inside = np.clip((told * BINS).astype(int), 0, BINS - 1) == number
        if inside.any():
            weight = cases.weight[inside]
            rows.append(
                {
                    "from": number / BINS,
                    "share": float(weight.sum() / cases.weight.sum()),
                    "told": float(np.average(told[inside], weights=weight)),
                    "found": float(np.average(cases.is_near[inside], weights=weight)),
                }
            )
    return rows


def calibration_error(told: NDArray[np.float64], cases: Cases) -> float:
    """Expected calibration error, 0–1: the mean distance of told and found over the tenths."""
    return sum(row["share"] * abs(row["told"] - row["found"]) for row in reliability(told, cases))
