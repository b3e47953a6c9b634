"""Many networks in one launch: each ends with the weights that it has alone, on the CPU."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning

from nbnet import MLPClassifier, MLPRegressor
from nbnet.cpu import session as cpu
from nbnet.cuda import product, small_nets, small_sessions
from nbnet.cuda import session as gpu
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.estimators import together
from nbnet.estimators.validation import share
from nbnet.model_selection import NetworkSearchCV
from nbnet.network import Activation, DenseSpec, Loss, Optimizer, build, initialize
from tests.cuda_sim import simulator

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
N_ROWS = 13
X = RNG.normal(size=(N_ROWS, 5))
CLASSES = np.array(["a", "b", "c"])[RNG.permutation(np.arange(N_ROWS) % 3)]
NUMBERS = X @ [1.0, 2.0, 0.0, -1.0, 0.5]
WEIGHTS = RNG.uniform(0.5, 2, N_ROWS)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Two warps; and small tiles for what is fitted alone."""
    monkeypatch.setattr(small_nets, "THREADS", 64)
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))


# ---------------------------------------------------------------- a team of sessions

# what differs between the networks of a team: rows, and settings
ROWS = [np.arange(N_ROWS), np.array([7, 3, 4, 9, 0]), np.arange(1, 8)]
SETTINGS = [
    {"batch_size": 8, "momentum": 0.5, "alpha": 0.1, "seed": 3},
    {"batch_size": 7, "beta_1": 0.8, "epsilon": 1e-4, "max_grad_norm": 0.05, "seed": 4},
    {"batch_size": 3, "beta_2": 0.9, "max_grad_norm": 1e3, "seed": 2**40 + 5},
]
DROPOUTS = [0.0, 0.4, 0.7]
SMOOTHINGS = [0.2, 0.0, 0.1]


def targets_on(backend, loss, n_outputs, dtype):
    rng = np.random.default_rng(1)
    weights = WEIGHTS.copy()
    if loss == Loss.SOFTMAX_CROSS_ENTROPY:
        return backend.as_targets(rng.integers(0, n_outputs, N_ROWS), None, weights, n_outputs, dtype)
    values = rng.integers(0, 2, (N_ROWS, n_outputs)) + 0.25 * (loss != Loss.SIGMOID_CROSS_ENTROPY)
    return backend.as_targets(None, values, weights, n_outputs, dtype)


def member(backend, number, loss, sizes, activation, dtype, optimizer, nesterov):
    specs = [DenseSpec(n, activation, DROPOUTS[number]) for n in sizes[:-1]]
    network = build(X.shape[1], [*specs, DenseSpec(sizes[-1])])
    options = {} if backend is small_sessions else {"n_jobs": 1}
    smoothing = SMOOTHINGS[number] if loss in (Loss.SOFTMAX_CROSS_ENTROPY, Loss.SIGMOID_CROSS_ENTROPY) else 0.0
    params = initialize(network, dtype, number)
    session = backend.Session(network, params, loss, loss_parameter=0.3, label_smoothing=smoothing, **options)
    session.prepare(UpdateRule(optimizer, nesterov=nesterov, **SETTINGS[number]))
    return session


def check_team(
    loss=Loss.SOFTMAX_CROSS_ENTROPY,
    sizes=(6, 3),
    activation=Activation.TANH,
    dtype=np.float32,
    optimizer=Optimizer.SGD,
    nesterov=True,
    x_dtype=np.float32,
    limit=2e-6,
):
    """Two epochs of three networks, of which the second makes the first epoch only."""
    of = loss, sizes, activation, dtype, optimizer, nesterov
    x = X.astype(x_dtype)
    alone, sessions = ([member(backend, i, *of) for i in range(3)] for backend in (cpu, small_sessions))
    assert len({session.key for session in sessions}) == 1
    targets = targets_on(small_sessions, loss, sizes[-1], dtype)
    team = small_sessions.Team(sessions, gpu.as_rows(x), [targets] * 3, [len(rows) for rows in ROWS])
    steps_before = [0, 0, 0]
    for numbers in ([0, 1, 2], [2, 0]):
        epochs, expected = {}, {}
        for number in numbers:
            order, session = ROWS[number], alone[number]
            rates = np.linspace(0.02, 0.01, -(-len(order) // session.update.batch_size))
            decays = rates * 0.1 if optimizer == Optimizer.ADAMW else np.zeros_like(rates)
            plan = EpochPlan(order, rates, decays, steps_before[number])
            steps_before[number] += rates.size
            expected[number] = session.train_epoch(cpu.as_rows(x), targets_on(cpu, loss, sizes[-1], dtype), plan)
            epochs[number] = sessions[number].steps(targets, plan)
        results = team.train_epoch(epochs)
        assert list(results) == numbers
        for number in numbers:
            assert results[number] == pytest.approx(expected[number], rel=1e-5)
            assert sessions[number].largest_weight() == pytest.approx(alone[number].largest_weight(), rel=1e-5)
    for number, session in enumerate(sessions):
        team.download(number)
        np.testing.assert_allclose(session.params, alone[number].params, rtol=0, atol=limit)
        np.testing.assert_allclose(session.moments, alone[number].moments, rtol=1e-4, atol=limit)


@pytest.mark.parametrize(
    ("loss", "optimizer", "nesterov", "activation"),
    [
        (Loss.SOFTMAX_CROSS_ENTROPY, Optimizer.SGD, True, Activation.TANH),
        (Loss.SIGMOID_CROSS_ENTROPY, Optimizer.ADAM, True, Activation.LOGISTIC),
        (Loss.SQUARED_ERROR, Optimizer.ADAMW, True, Activation.SOFTPLUS),
        (Loss.POISSON, Optimizer.SGD, False, Activation.RELU),
        (Loss.HUBER, Optimizer.ADAGRAD, True, Activation.ELU),
        (Loss.QUANTILE, Optimizer.SGD, True, Activation.GELU),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_losses_optimizers_activations(loss, optimizer, nesterov, activation):
    check_team(loss, activation=activation, optimizer=optimizer, nesterov=nesterov, limit=1e-5)


@pytest.mark.parametrize("sizes", [(35,), (17, 4, 3)], ids=["no hidden layer, many outputs", "two hidden layers"])
def test_depth_and_width(sizes):
    check_team(sizes=sizes)


def test_precisions():
    check_team(dtype=np.float64, limit=1e-12)
    check_team(x_dtype=np.float64)


def test_threads_in_any_order(order):
    check_team()


# ---------------------------------------------------------------- fits and searches


@pytest.fixture
def teams(monkeypatch):
    """(members, of these made) of each team."""
    made, train_team = [], together._train_team

    def record(team, members):
        numbers = train_team(team, members)
        made.append((len(members), len(numbers)))
        return numbers

    monkeypatch.setattr(together, "_train_team", record)
    return made


def classifier(**parameters):
    defaults = {"hidden_layer_sizes": (4,), "max_iter": 2, "batch_size": 5, "random_state": 0}
    return MLPClassifier(**{**defaults, **parameters})


def scores(estimator, X, y, sample_weight=None):
    """Of every weight, every moment and every curve; no predictions, for which there are other tests."""
    curve = estimator.loss_ + estimator.n_iter_
    moments = 0 if estimator.solver == "lbfgs" else np.abs(estimator._optimizer.moments).sum()
    return {"curve": curve, "weights": np.abs(estimator.params_).sum(), "moments": moments}


def search_both(estimator, grid, y=CLASSES, X=X, **fit_params):
    """Searches on the CPU and on the GPU find the same."""
    on_cpu, on_gpu = (
        NetworkSearchCV(clone(estimator).set_params(device=device), grid, cv=2, scoring=scores, refit=False).fit(
            X, y, **fit_params
        )
        for device in ("cpu", "cuda")
    )
    for score in ("curve", "weights", "moments"):
        for name in (f"split0_test_{score}", f"split1_test_{score}"):
            np.testing.assert_allclose(on_gpu.cv_results_[name], on_cpu.cv_results_[name], rtol=1e-5)


def test_what_differs_within_a_team(teams):
    grid = [
        {"alpha": [1.0], "learning_rate_init": [0.1], "dropout": [0.0, 0.5]},
        {"batch_size": [3], "class_weight": ["balanced"]},
        {"max_iter": [1, 3], "random_state": [7]},
    ]
    search_both(classifier(), grid, sample_weight=WEIGHTS)
    assert teams == [(10, 10)]


def test_what_makes_teams(teams):
    grid = {"hidden_layer_sizes": [(4,), (3, 3)], "solver": ["sgd", "adam"]}
    estimator = classifier(learning_rate="adaptive", tol=10.0, n_iter_no_change=1, max_iter=3)
    search_both(estimator, grid)
    assert teams == [(2, 2)] * 4


def test_regressor(teams):
    y = np.abs(np.stack([NUMBERS, X[:, 0]], axis=1))
    for loss in ("squared_error", "poisson"):
        regressor = MLPRegressor(loss, (4,), max_iter=2, batch_size=5, random_state=0, dtype="float32")
        search_both(regressor, {"alpha": [0.0, 1.0]}, y)
    assert teams == [(4, 4)] * 2


def test_what_is_fitted_alone(monkeypatch):
    alone = [
        {"solver": "lbfgs"},
        {"early_stopping": True, "validation_fraction": 0.5},
        {"input_scaling": "standard"},
        {"random_state": np.random.RandomState(0)},
        {"hidden_layer_sizes": (2, 2), "activation": ["relu", "tanh"]},
        {"verbose": True},
        {"device": "cpu"},
    ]
    rows = share(X)
    fits = [together.Fit(classifier(**{"device": "cuda", **parameters}), rows, CLASSES) for parameters in alone]
    fits.append(together.Fit(classifier(device="cuda"), share(sparse.csr_array(X)), CLASSES))
    assert together.fit_together(fits) == [False] * len(fits)
    small = together.Fit(classifier(device="cuda", max_iter=1), rows, CLASSES)
    assert together.fit_together([small]) == [True]
    monkeypatch.setattr(small_sessions, "LARGEST_NETWORK", 100)
    assert together.fit_together([small]) == [False]


def test_a_fit_that_fails_or_diverges_leaves_its_team(teams, monkeypatch):
    monkeypatch.setattr(simulator.module, "overflow", "ignore")
    grid = [{"learning_rate_init": [1e-9, 1e200]}, {"alpha": [-1.0]}]
    # no slope of leaky relu is zero: the network diverges from any start
    regressor = MLPRegressor(
        hidden_layer_sizes=(4,), activation="leaky_relu", solver="sgd", max_iter=1, batch_size=5, device="cuda"
    )
    search = NetworkSearchCV(regressor, grid, cv=2, scoring=scores, refit=False)
    with pytest.warns(Warning) as caught:
        search.fit(1e3 * X, NUMBERS)
    message = next(str(warning.message) for warning in caught if warning.category is FitFailedWarning)
    assert "4 fits failed out of a total of 6" in message
    assert "non-finite parameter weights" in message and "'alpha' parameter of MLPRegressor" in message
    assert teams == [(4, 2)]
    assert np.isfinite(search.cv_results_["mean_test_weights"]).tolist() == [True, False, False]


def test_teams_that_fill_the_memory(teams, monkeypatch):
    monkeypatch.setattr(small_sessions, "BYTES", 1)
    search_both(classifier(max_iter=1), {"alpha": [0.1, 1.0]})
    assert teams == [(1, 1)] * 4


def test_warnings_that_are_errors_are_raised_by_the_fit_alone(teams):
    fits = [together.Fit(classifier(device="cuda", max_iter=1, batch_size=13), share(X), CLASSES)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        assert together.fit_together(fits) == [False]
    assert teams == [(1, 0)]


def test_teams_for_which_there_is_no_room(monkeypatch):
    fits = [together.Fit(classifier(device="cuda", alpha=alpha), share(X), CLASSES) for alpha in (0.1, 1.0)]
    with simulator.memory_limit(X.nbytes):
        assert together.fit_together(fits) == [False, False]
    monkeypatch.setattr(gpu, "has_room", lambda X: False)
    fits = [fit._replace(rows=share(X)) for fit in fits]
    assert together.fit_together(fits) == [False, False]


def test_x_is_uploaded_once(monkeypatch):
    uploads, as_rows = [], gpu.as_rows
    monkeypatch.setattr(gpu, "as_rows", lambda X: uploads.append(X.shape[0]) or as_rows(X))
    grid = [{"alpha": [0.1]}, {"hidden_layer_sizes": [(2, 2)], "activation": [["relu", "tanh"]]}]
    estimator = classifier(max_iter=1, batch_size=6, device="cuda")
    NetworkSearchCV(estimator, grid, cv=2, scoring=scores, refit=False).fit(X, CLASSES)
    assert uploads == [N_ROWS]
