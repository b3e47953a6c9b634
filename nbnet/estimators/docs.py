"""Parts of docstrings that the estimators share."""

from __future__ import annotations

import inspect

HIDDEN_LAYER_SIZES = """\
hidden_layer_sizes : array-like of shape (n_layers - 2,), default=(100,)
    Number of units of each hidden layer; ``()`` gives a linear model.

activation : str or sequence of str, default="relu"
    Activation of the hidden layers, or one for each of them: "identity", "relu", "leaky_relu", "elu", "gelu",
    "silu", "tanh", "logistic" or "softplus"."""

SHARED = """\
solver : {"adam", "adamw", "sgd", "lbfgs"}, default="adam"
    "adamw" is adam with decoupled weight decay: a step subtracts ``learning_rate * alpha * weight`` from each weight
    (not from biases), and `alpha` is no part of the loss. "lbfgs" works on all rows at once, in float64.

alpha : float, default=0.0001
    Strength of the L2 penalty; divided by the sum of the batch's sample weights, except for "adamw".

batch_size : int, default="auto"
    Rows of a batch; "auto" is ``min(200, n_samples)``. Not for "lbfgs".

learning_rate : str, default="constant"
    How the learning rate changes.

    - "constant": `learning_rate_init` throughout.
    - "linear", "cosine": falls from `learning_rate_init` to 0 within `max_iter` epochs.
    - "one_cycle": rises from a 25th of `learning_rate_init` to it, in the first 30 % of the steps or in
      `warmup_fraction` of them, and falls again to nearly 0.
    - "invscaling": ``learning_rate_init / t_ ** power_t``, by epoch; sgd only.
    - "adaptive": divided by 5 each time that training stops to improve; sgd only.

    Reaching `max_iter` gives no ConvergenceWarning with "linear", "cosine" and "one_cycle", which end there.

learning_rate_init : float, default=0.001
    The constant, first or highest learning rate. Not for "lbfgs".

power_t : float, default=0.5
    Exponent of "invscaling".

max_iter : int, default=200
    Most epochs, or iterations of "lbfgs".

shuffle : bool, default=True
    Whether to shuffle the rows before each epoch. Not for "lbfgs".

random_state : int, RandomState instance or None, default=None
    Seed of initial weights, shuffles, dropout and the split for early stopping. One number is drawn from it in each
    call of `fit` and `partial_fit`.

tol : float, default=1e-4
    Smallest improvement of the loss, or with early stopping of the validation score, that counts as one. For "lbfgs"
    the largest component of the gradient at which it stops.

verbose : bool or int, default=False
    Whether to print a line after each epoch.

warm_start : bool, default=False
    Whether `fit` goes on from the parameters of the previous call.

momentum : float, default=0.9
    Momentum of sgd, from 0 to 1.

nesterovs_momentum : bool, default=True
    Whether the momentum of sgd is Nesterov's.

early_stopping : bool, default=False
    Whether to stop where the validation score does not improve, and to keep the weights of the best epoch. The rows to
    validate on are X_val of `fit`, or else `validation_fraction` of X. Not for "lbfgs".

validation_fraction : float, default=0.1
    Share of X held out for early stopping.

beta_1, beta_2 : float, default=0.9 and 0.999
    Decay rates of adam's first and second moments, in [0, 1).

epsilon : float, default=1e-8
    Added to the denominator of adam's step.

n_iter_no_change : int, default=10
    Epochs without improvement by `tol` before training stops. Not for "lbfgs".

max_fun : int, default=15000
    Most evaluations of the loss by "lbfgs"."""

OURS = """\
dropout : float, default=0.0
    Share of each hidden layer's outputs set to zero in a training step, in [0, 1). Not for "lbfgs".

label_smoothing : float, default=0.0
    Share of each target that is spread evenly over all classes, in [0, 1). For classes only.

input_scaling : {"standard", "robust"} or None, default=None
    Scaling of the columns of X, learned from the training rows in `fit` or the first `partial_fit` and applied to
    everything later. "standard": mean 0, standard deviation 1. "robust": median 0, distance of the quartiles 1, then
    ``x / sqrt(1 + (x / 3)**2)``, which brings outliers smoothly below 3. X is copied once for it.

warmup_fraction : float, default=0.0
    Share of all steps (those of `max_iter` epochs) on which the learning rate rises on a straight line, in [0, 1).

max_grad_norm : float or None, default=None
    Largest Euclidean norm of a step's gradient; longer gradients are scaled down to it. Not for "lbfgs".

scoring : str, callable or None, default=None
    Validation score: None is the estimator's own `score`, "loss" the negative validation loss, else the name of a
    scorer of scikit-learn or ``scorer(estimator, X, y)``.

dtype : {"float32", "float64"} or None, default=None
    Type to compute in. None follows X: float32 stays float32, everything else is float64. float32 is twice as fast.

n_jobs : int or None, default=None
    Workers. None takes as many as the work is worth, and one inside a joblib worker. The result has the same bits for
    any number.

device : {"cpu", "cuda", "cuda:N", "auto"}, default="cpu"
    Where to compute: "cuda" is the first NVIDIA GPU, "cuda:1" the second; "auto" is the first one if it can be used,
    else the CPU, and a warning says why. A fitted model predicts on the CPU where there is no GPU. This is not yet
    measured on a GPU.

matmul_precision : {"highest", "high"}, default="highest"
    How precise large products of float32 are in training on a GPU. "highest" rounds to 24 bits; "high" may round what
    is multiplied to 11 bits (TF32), which is faster where cuBLAS is installed. Predictions, float64 and the CPU know
    "highest" only: there, "high" changes nothing."""

ATTRIBUTES = """\
params_ : ndarray (n_params,)
    All parameters in one vector, padded; `network_` says where each layer lies.

network_ : Network
    The layer table.

coefs_, intercepts_ : list of ndarray
    Weight (n_in, n_out) and bias (n_out,) of each layer: views of `params_`. A list of arrays of the same shapes can be
    assigned.

loss_ : float
    Loss of the last epoch.

best_loss_ : float or None
    Lowest loss; None with early stopping.

loss_curve_ : list of float
    Loss of each epoch.

validation_scores_ : list of float or None
    Validation score of each epoch; None without early stopping.

best_validation_score_ : float or None
    Highest validation score; None without early stopping.

history_ : dict of list
    One entry an epoch: "loss", "val_loss", "val_score" (NaN without validation rows), "learning_rate" (of the epoch's
    last step), "seconds".

t_ : int
    Rows seen in all.

n_iter_ : int
    Epochs, or iterations, of the last call.

n_features_in_ : int
    Number of columns of X.

feature_names_in_ : ndarray (n_features,)
    Names of the columns, where X had text as names.

n_layers_ : int
    Number of layers, input and output included.

n_outputs_ : int
    Number of outputs.

out_activation_ : str
    Name of the output activation.

input_center_, input_scale_ : ndarray (n_features,)
    What `input_scaling` subtracts and then multiplies by; only with it."""


def documented(cls):
    """Fill the shared parts into the docstring of a class."""
    parts = {
        "hidden_layer_sizes": HIDDEN_LAYER_SIZES,
        "shared": SHARED,
        "ours": OURS,
        "attributes": ATTRIBUTES,
    }
    doc = inspect.cleandoc(cls.__doc__ or "")  # empty under python -OO
    cls.__doc__ = doc.format(**parts)
    return cls
