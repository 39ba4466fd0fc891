import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, recall_score
from sklearn.preprocessing import StandardScaler

from storage.errors import UserError
from tasks.numerics import softmax_regression
from tasks.numerics.principal_axes import PrincipalAxes, decompose
from tasks.numerics.proportion import wilson_interval
from tasks.numerics.softmax_regression import fit_path, onward
from tasks.scoring import probe
from tasks.scoring.features import Features
from tasks.scoring.folds import FOLDS, folds_of
from tasks.scoring.probe import fit_probe, fit_probe_on
from tasks.vocabulary import ProbeProtocol


def clouds(n, d, k, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(1).standard_normal((k, d)) * spread
    y = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    X = rng.standard_normal((n, d)) * np.geomspace(0.1, 10, d) + means[y] * np.geomspace(0.1, 10, d)
    return X.astype(np.float32), y


def objective(Z, y, W, b, penalty):
    """The objective of softmax_regression's docstring, in float64 numpy."""
    logits = Z @ W.T + b
    logits -= logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(len(y)), y].mean() + penalty / 2 * (W**2).sum()


@pytest.mark.parametrize(("n", "d", "k"), [(300, 12, 4), (120, 200, 3), (400, 30, 2), (500, 5, 60)])
def test_reaches_the_optimum_of_scikit_learn(n, d, k):
    X, y = clouds(n, d, k, spread=0.4)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    penalties = (1.0, 0.1, 0.01, 0.0005)
    rows = torch.from_numpy(Z).float()
    along = PrincipalAxes.of(rows, *decompose(rows))
    fits = fit_path(along.coordinates, torch.from_numpy(y), k, penalties)
    for penalty, fit in zip(penalties, fits, strict=True):
        peer = LogisticRegression(C=1 / (penalty * n), tol=1e-10, max_iter=10_000).fit(Z, y)
        W, b = peer.coef_, peer.intercept_
        if k == 2:  # scikit-learn's two-class form has one row, whose penalty is twice a softmax's
            peer = LogisticRegression(C=2 / (penalty * n), tol=1e-10, max_iter=10_000).fit(Z, y)
            W = np.concatenate([-peer.coef_, peer.coef_]) / 2
            b = np.concatenate([-peer.intercept_, peer.intercept_]) / 2
        best = objective(Z, y, W, b, penalty)
        got = objective(Z, y, (fit.weights @ along.axes.double()).numpy(), fit.intercepts.numpy(), penalty)
        assert fit.converged
        assert fit.iterations < 100
        assert got <= best * (1 + 1e-4)
        assert fit.objective == pytest.approx(got, rel=1e-5)


def tagged_words(n=1_700, d=200, k=50, seed=0):
    """Rows, labels and groups as of words of texts: a few classes have most rows, some are of one text alone."""
    rng = np.random.default_rng(seed)
    y = rng.choice(k, n, p=(share := 1.0 / np.arange(1, k + 1) ** 1.5) / share.sum())
    y[:k] = np.arange(k)
    X = 2.0 * rng.standard_normal((k, d))[y] + rng.standard_normal((n, d)) * rng.exponential(1.0, (n, 1))
    groups = rng.integers(0, 120, n)
    for rare in range(k - 5, k):
        groups[y == rare] = rare
    return X.astype(np.float32), y, groups


@pytest.mark.parametrize("penalty", [1e-3, 1e-5])
@pytest.mark.parametrize("seed", range(3))
def test_weak_penalties_of_many_rare_classes_are_fitted_to_the_optimum(penalty, seed):
    X, y, _ = tagged_words(seed=seed)
    rows = torch.from_numpy(StandardScaler().fit_transform(X.astype(np.float64))).float()
    along = PrincipalAxes.of(rows, *decompose(rows))
    fit = fit_path(along.coordinates, torch.from_numpy(y), y.max() + 1, (penalty,))[0]
    peer = LogisticRegression(C=1 / (penalty * len(y)), tol=1e-8, max_iter=10_000).fit(rows.numpy(), y)
    best = objective(rows.double().numpy(), y, peer.coef_, peer.intercept_, penalty)
    assert fit.converged
    assert fit.objective <= best * (1 + 1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_classes_of_one_group_are_fitted_as_the_others_are(seed):
    """The fit that chooses a penalty has no row of those whose group is held out, and says nothing of them."""
    X, y, groups = tagged_words(seed=seed)
    folds = folds_of(y, groups, 0)
    assert len(np.setdiff1d(y, y[folds.fold != 0]))
    found = fit_probe_on(Features(X, y, groups=groups), X, y)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    peer = LogisticRegression(C=1 / (found.penalty * len(y)), tol=1e-8, max_iter=10_000).fit(Z, y)
    best = objective(Z, y, peer.coef_, peer.intercept_, found.penalty)
    assert found.converged
    assert objective(Z, y, found.coefficients, found.intercepts, found.penalty) <= best * (1 + 1e-3)


def test_fits_of_parts_side_by_side_are_those_of_the_parts_alone():
    X, y = clouds(200, 9, 3, spread=0.4)
    Z, codes = torch.from_numpy(StandardScaler().fit_transform(X)).float(), torch.from_numpy(y)
    used = torch.from_numpy(np.random.default_rng(3).random((3, 200)) < 0.8)
    penalties = (0.3, 0.01)
    together = fit_path(Z, codes, 3, penalties, used=used)
    alone = [fit for part in used for fit in fit_path(Z[part], codes[part], 3, penalties)]
    assert len(together) == len(alone) == 6
    for one, other in zip(together, alone, strict=True):
        assert one.objective == pytest.approx(other.objective, rel=1e-6)
        torch.testing.assert_close(one.weights, other.weights, atol=2e-3, rtol=0)


@pytest.mark.parametrize("n", [90, 1_500])
def test_folds_fitted_together_or_one_by_one_tell_the_same_penalty(monkeypatch, n):
    X, y = clouds(n + 200, 12, 3, spread=0.2)
    together = fit_probe(X[:n], y[:n], X[n:], y[n:])
    monkeypatch.setattr(probe, "FITTED_VALUES", 1)
    alone = fit_probe(X[:n], y[:n], X[n:], y[n:])
    assert together.penalty == alone.penalty
    np.testing.assert_array_equal(together.predictions, alone.predictions)


def test_measures_agree_with_scikit_learn():
    X, y = clouds(400, 10, 5, seed=1, spread=0.3)
    X_test, y_test = clouds(300, 10, 5, seed=2, spread=0.3)
    y, y_test = y * 3 - 2, y_test * 3 - 2
    got = fit_probe(X, y, X_test, y_test)
    Z = (X_test - got.mean) / got.scale
    logits = Z @ got.coefficients.T + got.intercepts
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_array_equal(got.classes, np.unique(y))
    np.testing.assert_array_equal(got.predictions, got.classes[p.argmax(1)])
    assert got.predictions.dtype == np.int32
    assert got.accuracy == (got.predictions == y_test).mean()
    assert got.accuracy_low < got.accuracy < got.accuracy_high
    assert got.macro_f1 == pytest.approx(f1_score(y_test, got.predictions, average="macro"))
    assert got.balanced_accuracy == pytest.approx(balanced_accuracy_score(y_test, got.predictions))
    assert got.log_loss == pytest.approx(log_loss(y_test, p, labels=got.classes))
    recalls = recall_score(y_test, got.predictions, average=None, labels=got.classes)
    np.testing.assert_allclose([got.recall_by_class[int(c)] for c in got.classes], recalls)
    dummy = DummyClassifier(strategy="most_frequent").fit(X, y)
    assert got.majority_accuracy == dummy.score(X_test, y_test)
    assert (got.n_train, got.n_test) == (400, 300)
    assert got.converged
    np.testing.assert_allclose(got.mean, X.mean(0, dtype=np.float64), atol=1e-5)
    np.testing.assert_allclose(got.scale, X.std(0, dtype=np.float64), rtol=1e-5)


@pytest.mark.parametrize(("share", "positive"), [(0.2, 7), (0.8, 3), (0.5, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_detection_is_what_its_definitions_say(share, positive, seed):
    rng = np.random.default_rng(seed)
    codes = (np.arange(700) < round(share * 700)).astype(int)
    X = (rng.standard_normal((700, 4)) + 0.8 * codes[:, None]).round(1).astype(np.float32)  # with ties
    y = np.array([3, 7])[codes]
    order = np.concatenate(
        [np.arange(0, 700, 2), np.arange(1, 700, 2)]
    )  # as many of each class in both halves
    X, y = X[order], y[order]
    found = fit_probe(X[:350], y[:350], X[350:], y[350:])
    score = ((X[350:] - found.mean) / found.scale) @ (found.coefficients[1] - found.coefficients[0])
    score = score if positive == 7 else -score
    ours, others = (score[(y[350:] == positive) == which] for which in (True, False))
    wins = (ours[:, None] > others).mean() + 0.5 * (ours[:, None] == others).mean()
    assert found.detection.positive == positive
    assert found.detection.auroc == pytest.approx(wins, abs=1e-3)
    allowed = [t for t in np.unique(score) if (others >= t).mean() <= 0.01]
    best = max(((ours >= t).mean() for t in allowed), default=0.0)
    assert found.detection.true_positive_rate == pytest.approx(best, abs=2.1 / len(ours))


def test_detection_is_of_two_classes_that_both_have_test_rows():
    X, y = clouds(200, 4, 3)
    assert fit_probe(X[:100], y[:100], X[100:], y[100:]).detection is None
    X, y = clouds(200, 4, 2)
    one = np.flatnonzero(y[100:] == 1) + 100
    assert fit_probe(X[:100], y[:100], X[one], y[one]).detection is None


def test_penalty_is_chosen_without_the_test_rows():
    """Many useless features: a weak penalty overfits, and the held-out rows must notice."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 500)
    X = rng.standard_normal((500, 150))
    X[:, :3] += np.eye(3)[y]
    X_test, y_test = rng.standard_normal((2_000, 150)), rng.integers(0, 3, 2_000)
    X_test[:, :3] += np.eye(3)[y_test]
    got = fit_probe(X, y, X_test, y_test)
    assert got.penalty >= 0.1
    fixed = fit_probe(X, y, X_test, y_test, penalties=(0.001,))
    assert got.log_loss < fixed.log_loss
    assert got.accuracy >= fixed.accuracy
    wrong_labels = fit_probe(X, y, X_test, (y_test + 1) % 3)
    assert wrong_labels.penalty == got.penalty
    np.testing.assert_array_equal(wrong_labels.coefficients, got.coefficients)


@pytest.mark.parametrize(("n", "strength"), [(150, 0.0), (300, 0.5), (800, 1.0), (800, 4.0), (1_500, 8.0)])
def test_stopping_where_the_loss_rises_finds_what_trying_all_finds(n, strength):
    """From no signal, which wants the strongest penalty, to one that wants a weak one."""
    rng = np.random.default_rng(n)
    X = rng.standard_normal((n + 50, 12))
    y = (X @ rng.standard_normal((12, 3)) * strength + rng.gumbel(size=(n + 50, 3))).argmax(1)
    found = [
        fit_probe(X[:n], y[:n], X[n:], y[n:], penalties=penalties).penalty
        for penalties in (None, probe.PENALTIES)
    ]
    assert found[0] == found[1]
    assert (found[0] < probe.PENALTIES[0]) == (strength > 0)


def test_held_out_measures_are_those_of_fits_without_each_fold(monkeypatch):
    monkeypatch.setattr(probe, "CHOOSING_TOLERANCE", 1e-7)
    X, y = clouds(300, 10, 4, spread=0.3)
    got = fit_probe(X[:200], y[:200], X[200:], y[200:])
    Z, codes = StandardScaler().fit_transform(X[:200].astype(np.float64)), y[:200]
    fold = folds_of(codes, None, 0).fold
    p = np.zeros((200, 4))
    for i in range(FOLDS):
        held_out = fold == i
        C = 1 / (got.penalty * (~held_out).sum())
        peer = LogisticRegression(C=C, tol=1e-9, max_iter=5_000).fit(Z[~held_out], codes[~held_out])
        p[held_out] = peer.predict_proba(Z[held_out])
    assert got.held_out_accuracy == (p.argmax(1) == codes).mean()
    assert got.held_out_log_loss == pytest.approx(log_loss(codes, p), rel=1e-3)
    fixed = fit_probe(X[:200], y[:200], X[200:], y[200:], penalties=(0.1,))
    assert fixed.held_out_accuracy is None
    assert fixed.held_out_log_loss is None


def test_a_start_near_the_optimum_leads_to_the_same_one_sooner():
    X, y = clouds(600, 30, 12, spread=0.4)
    Z, codes = torch.from_numpy(StandardScaler().fit_transform(X)).float(), torch.from_numpy(y)
    (near,) = fit_path(Z, codes, 12, (0.01,))
    (cold,) = fit_path(Z, codes, 12, (0.003,))
    (warm,) = fit_path(Z, codes, 12, (0.003,), start=[near])
    assert warm.objective == pytest.approx(cold.objective, rel=1e-6)
    assert warm.iterations < cold.iterations


def test_the_line_through_two_optima_leads_to_the_next_one_sooner_than_the_last_alone():
    X, y = clouds(600, 30, 12, spread=0.4)
    Z, codes = torch.from_numpy(StandardScaler().fit_transform(X)).float(), torch.from_numpy(y)
    (before,) = fit_path(Z, codes, 12, (0.01,))
    (last,) = fit_path(Z, codes, 12, (0.003,), start=[before])
    (warm,) = fit_path(Z, codes, 12, (0.0009,), start=[last])
    (led,) = fit_path(Z, codes, 12, (0.0009,), start=[onward(last, before, 0.0009)])
    assert led.objective == pytest.approx(warm.objective, rel=1e-5)
    assert led.iterations < warm.iterations


def test_a_line_search_that_is_ended_tells_of_the_step_that_it_looked_at(monkeypatch):
    monkeypatch.setattr(softmax_regression, "MOST_STEPS", 1)
    X, y = clouds(80, 5, 3)
    Z, codes = torch.from_numpy(StandardScaler().fit_transform(X)).float(), torch.from_numpy(y)
    problem = softmax_regression._Problem.of(Z, codes, 3, (0.01,), None, None)
    theta = torch.zeros(1, 3, 6, dtype=torch.float64)
    logits = problem.logits(theta)
    # Too short: a second look would be asked for.
    direction = -0.01 * problem.gradient(problem.look(logits)[1], theta)
    slope = -(direction**2).sum((1, 2)) / 0.01
    found = softmax_regression._line_search(
        problem, logits, problem.logits(direction), theta, direction, problem.look(logits)[0], slope
    )
    assert float(found.step) == 1.0
    at = theta + found.step[:, None, None] * direction
    loss, residual = problem.look(problem.logits(at))
    assert float(found.value) == pytest.approx(
        float(loss) + 0.005 * float((at[:, :, :-1] ** 2).sum()), rel=1e-6
    )
    torch.testing.assert_close(found.residual, residual, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("penalty", "ahead"), [(0.001, 1.0), (0.01**1.25, 0.5), (1e-9, 1.0), (0.01, 0.0), (0.5, 0.0)]
)
def test_no_further_ahead_than_the_last_step_and_never_back(penalty, ahead):
    X, y = clouds(60, 4, 3)
    Z, codes = torch.from_numpy(StandardScaler().fit_transform(X)).float(), torch.from_numpy(y)
    before, last = fit_path(Z, codes, 3, (0.1, 0.01))
    found = onward(last, before, penalty)
    torch.testing.assert_close(found.weights, last.weights + ahead * (last.weights - before.weights))
    torch.testing.assert_close(
        found.intercepts, last.intercepts + ahead * (last.intercepts - before.intercepts)
    )
    same = onward(last, last, penalty)
    torch.testing.assert_close(same.weights, last.weights)


def test_many_rows_get_a_weaker_penalty_than_the_first_ones():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6_000, 5))
    y = (X @ rng.standard_normal((5, 3)) * 4 + rng.gumbel(size=(6_000, 3))).argmax(1)
    got = fit_probe(X[:5_000], y[:5_000], X[5_000:], y[5_000:])
    assert got.penalty < 0.01


@pytest.mark.parametrize("protocol", ProbeProtocol)
def test_same_seed_same_probe_and_any_float(protocol):
    X, y = clouds(150, 6, 3)
    X_test, y_test = clouds(80, 6, 3, seed=3)
    first = fit_probe(X, y, X_test, y_test, protocol=protocol, seed=4)
    again = fit_probe(torch.from_numpy(X), torch.from_numpy(y), X_test, y_test, protocol=protocol, seed=4)
    np.testing.assert_array_equal(first.coefficients, again.coefficients)
    double = fit_probe(X.astype(np.float64), y, X_test.astype(np.float64), y_test, protocol=protocol, seed=4)
    np.testing.assert_allclose(double.coefficients, first.coefficients, atol=1e-4)
    doubled = fit_probe(X * 2, y, X_test * 2, y_test, protocol=protocol, seed=4)
    np.testing.assert_allclose(doubled.coefficients, first.coefficients, atol=1e-4)


def test_sgd_learns_and_says_whether_it_settled():
    X, y = clouds(1_500, 8, 3)
    X_test, y_test = clouds(300, 8, 3, seed=5)
    got = fit_probe(X, y, X_test, y_test, protocol=ProbeProtocol.SGD)
    assert got.iterations == probe.SGD_EPOCHS * -(-1_500 // probe.SGD_BATCH)
    assert got.penalty == 0.0
    assert got.accuracy > got.majority_accuracy + 0.2
    assert abs(got.accuracy - fit_probe(X, y, X_test, y_test).accuracy) < 0.05


def test_awkward_data():
    X, y = clouds(90, 6, 3)
    X[:, 2] = 4.0  # constant
    X[:, 3] *= 1e12
    X[:, 4] = X[:, 5]  # collinear
    y[7], y[8] = 50, 51  # classes of one row
    X_test, y_test = X[:20].copy(), y[:20].copy()
    y_test[0] = 77  # never seen in training
    got = fit_probe(X, y, X_test, y_test)
    assert got.scale[2] == 1.0
    assert np.isfinite(got.coefficients).all()
    assert np.isfinite([got.log_loss, got.macro_f1, got.balanced_accuracy]).all()
    assert got.recall_by_class[77] == 0.0
    separable = fit_probe(np.eye(2).repeat(20, 0) * 9, np.arange(2).repeat(20), np.eye(2), np.arange(2))
    assert separable.accuracy == 1.0
    assert separable.converged


def test_what_cannot_be_fitted_says_why():
    X, y = clouds(30, 4, 2)
    with pytest.raises(UserError, match="two classes"):
        fit_probe(X, np.zeros(30, dtype=int), X, y)
    with pytest.raises(UserError, match="test split is empty"):
        fit_probe(X, y, X[:0], y[:0])
    bad = X.copy()
    bad[3, 1] = np.nan
    with pytest.raises(UserError, match="1 of 30 train"):
        fit_probe(bad, y, X, y)
    with pytest.raises(UserError, match="1 of 30 test"):
        fit_probe(X, y, bad, y)


def test_wilson_interval():
    # Newcombe 1998, table I, doi 10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E
    for hits, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        np.testing.assert_allclose(wilson_interval(hits, n), (low, high), atol=1e-4)
    assert wilson_interval(29, 29)[1] == 1.0


@pytest.mark.parametrize("width", [6, 300])  # fewer features than rows, and more
def test_a_probe_in_the_place_of_its_rows_is_the_same(width: int) -> None:
    rng = np.random.default_rng(width)
    y = rng.integers(0, 3, 150)
    X = (rng.normal(size=(150, width)) + np.eye(3, width)[y]).astype(np.float32)
    kept = fit_probe_on(Features(X.copy(), y), X, y)
    features = Features(X.copy(), y)
    features.keep_axes_alone()
    assert len(features.rows) == 0
    assert "standardised" not in vars(features)
    spent = fit_probe_on(features, X, y)
    np.testing.assert_array_equal(spent.coefficients, kept.coefficients)
    assert spent.log_loss == kept.log_loss


@pytest.mark.parametrize(("rows", "width"), [(300, 40), (40, 300), (60, 60)])
def test_where_all_rows_are_one_the_probe_names_the_most_frequent_label(rows, width):
    """As at layer 0 where every text ends with a full stop; also where there are no more rows than features."""
    rng = np.random.default_rng(0)
    X, y = np.full((rows, width), 0.37, np.float32), rng.integers(0, 3, rows)
    T, truth = rng.standard_normal((25, width)).astype(np.float32), rng.integers(0, 3, 25)
    found = fit_probe(X, y, T, truth)
    assert set(found.predictions) == {np.bincount(y).argmax()}
    assert found.accuracy == found.majority_accuracy
    assert found.converged
    np.testing.assert_array_equal(found.coefficients, 0.0)


@pytest.mark.parametrize(("rare", "told"), [(2, True), (12, False)])
def test_where_classes_that_are_never_held_out_have_many_rows_nothing_is_said_of_test_rows(rare, told):
    """Those are easier without them, whether or not test rows are like train rows."""
    X, y = clouds(200, 6, 3)
    few = np.repeat(np.arange(3, 3 + rare), 3)
    X, y = np.vstack([X, 9 * np.random.default_rng(1).normal(size=(len(few), 6))]), np.concatenate([y, few])
    found = fit_probe(X, y, X[:50], y[:50])
    assert (found.held_out_rows > 0, found.held_out_accuracy is not None) == (told, told)
