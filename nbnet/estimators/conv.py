"""`ConvClassifier`: classes of images, by a small convolutional network."""

from __future__ import annotations

from numbers import Integral
from typing import NamedTuple, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from .. import trainer
from ..image_network import running_mean_of, running_variance_of, scale_of
from ..images import Augmentation
from ..network import NONE, ConvAlgorithm, LayerKind, bias_of, weight_of
from .base import BaseNetwork
from .classes import CLASS_WEIGHT, ClassesMixin
from .conv_run import ImageRun, as_images, build_network, starting_params
from .image_input import validate_images
from .presets import RESNET, resnet_layers
from .validation import check_range


class BatchNorm(NamedTuple):
    """What batch norm has learned for each channel of a convolution (n_out,); its offset is the layer's bias."""

    scale: np.ndarray
    running_mean: np.ndarray
    running_variance: np.ndarray


class ConvClassifier(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClassesMixin, BaseNetwork):
    """Classifier of images: convolutions, poolings and residual blocks below fully connected layers.

    Arrays of images go in, labels come out, in a pipeline or a grid search as elsewhere in scikit-learn. The log-loss
    is minimized: softmax for three classes or more, one sigmoid for two classes, one for each label of a multilabel
    target.

    Parameters
    ----------
    conv_layers : sequence, default=(32, "max_pool", 64, "max_pool")
        The layers of images, first to last. An entry is

        - an int or ``(channels,)``: a convolution with so many channels; ``(channels, kernel_size)`` and ``(channels,
          kernel_size, stride)`` set the rest;
        - "max_pool", "avg_pool": pooling of windows of `pool_size`, which do not overlap; what does not fill a window
          is left out; "global_avg_pool": the mean over the whole image;
        - ``("residual", channels)`` and ``("residual", channels, stride)``: ResNet's basic block of two 3x3
          convolutions; where shapes change, its input goes through a 1x1 convolution.

    hidden_layer_sizes : array-like of shape (n_hidden,), default=(128,)
        Units of each fully connected layer between the images and the output.

    activation : str or sequence of str, default="relu"
        Activation of all convolutions and hidden layers, or one for each convolution or residual block and each hidden
        layer; names as in `MLPClassifier`.

    kernel_size : int, default=3
        Side of the filters that do not say their own.

    padding : {"same", "valid"}, default="same"
        "same": zeros around the image, so that a convolution gives ``ceil(size / stride)`` pixels a side. "valid":
        none. Residual blocks always pad.

    pool_size : int, default=2
        Side of the windows of "max_pool" and "avg_pool".

    batch_norm : bool, default=False
        Whether each convolution is normalized over the batch before its activation. Predictions use running means and
        variances.

    image_shape : tuple (height, width) or (height, width, channels), default=None
        None: X is (n, height, width) or (n, height, width, channels). Else X has flat rows of that shape, as a table;
        one entry may be -1, which is then inferred.

    normalize : bool, default=True
        Whether each channel is brought to mean 0 and deviation 1, learned from the training images in `fit` or the
        first `partial_fit`. Without, values are taken as they are: from 0 to 255 in uint8.

    augment : Augmentation, dict or None, default=None
        Random changes of the training images, drawn anew in each epoch: an `nbnet.Augmentation` or its fields, for
        example ``{"horizontal_flip": 0.5, "shift": 2}``.

    conv_algorithm : {"auto", "direct", "winograd"}, default="auto"
        "auto" computes 3x3 convolutions of stride 1 with 32 channels or more on both sides by Winograd's algorithm, all
        others directly; chosen by the shape of the layer alone. Errors, relative to the largest output: direct 1e-5,
        Winograd 1e-4.

    solver : {"adam", "adamw", "sgd", "adagrad"}, default="adam"
        "adamw" is adam with decoupled weight decay, see `MLPClassifier`.

    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights of all layers.

    batch_size : int, default="auto"
        Images of a batch; "auto" is ``min(200, n_samples)``.

    learning_rate : str, default="constant"
        "constant", "linear", "cosine", "one_cycle", "invscaling" or "adaptive", as in `MLPClassifier`.

    learning_rate_init : float, default=0.001
        The constant, first or highest learning rate.

    power_t : float, default=0.5
        Exponent of "invscaling".

    max_iter : int, default=200
        Most epochs.

    shuffle : bool, default=True
        Whether to shuffle the images before each epoch.

    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, shuffles, dropout, augmentation and the split for early stopping. One number is drawn
        from it in each call of `fit` and `partial_fit`.

    tol : float, default=1e-4
        Smallest improvement of the loss, or with early stopping of the validation score, that counts as one.

    verbose : bool or int, default=False
        Whether to print a line after each epoch.

    warm_start : bool, default=False
        Whether `fit` goes on from the parameters of the previous call.

    momentum : float, default=0.9
        Momentum of sgd, from 0 to 1.

    nesterovs_momentum : bool, default=True
        Whether the momentum of sgd is Nesterov's.

    early_stopping : bool, default=False
        Whether to stop where the validation score does not improve, and to keep the weights of the best epoch. The
        images to validate on are X_val of `fit`, or else `validation_fraction` of X.

    validation_fraction : float, default=0.1
        Share of X held out for early stopping.

    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay rates of adam's first and second moments, in [0, 1).

    epsilon : float, default=1e-8
        Added to the denominator of adam's step.

    n_iter_no_change : int, default=10
        Epochs without improvement by `tol` before training stops.

    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, as in `MLPClassifier`.

    dropout : float, default=0.0
        Share of each hidden layer's outputs set to zero in a training step, in [0, 1).

    label_smoothing : float, default=0.0
        Share of each target that is spread evenly over all classes, in [0, 1).

    warmup_fraction : float, default=0.0
        Share of all steps on which the learning rate rises on a straight line, in [0, 1).

    max_grad_norm : float or None, default=None
        Largest Euclidean norm of a step's gradient; longer gradients are scaled down to it.

    scoring : str, callable or None, default=None
        Validation score: None is the accuracy, "loss" the negative validation loss, else the name of a scorer of
        scikit-learn or ``scorer(estimator, X, y)``.

    dtype : {"float32", "float64"} or None, default=None
        Type to compute in. None: float32 for uint8 and float32 images, float64 for everything else.

    n_jobs : int or None, default=None
        Workers. None takes as many as the work is worth, and one inside a joblib worker. The result has the same bits
        for any number.

    device : {"cpu", "cuda", "cuda:N", "auto"}, default="cpu"
        Where to compute, as in `MLPClassifier`. On a GPU `conv_algorithm` has no meaning: convolutions are computed
        directly.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
        Class labels.

    image_shape_ : tuple (height, width, channels)
        Of the images that `fit` has seen.

    channel_mean_, channel_deviation_ : ndarray (channels,)
        What `normalize` subtracts and then divides by; zeros and ones without it.

    coefs_ : list of ndarray
        Filters (kernel_size, kernel_size, n_in, n_out) of each convolution, then weights (n_in, n_out) of each fully
        connected layer: views of `params_`. The convolutions of a residual block are its projection, if it has one, the
        first and the second.

    intercepts_ : list of ndarray
        Bias (n_out,) of each: views of `params_`. With batch norm the offset behind it.

    batch_norms_ : list of BatchNorm
        ``(scale, running_mean, running_variance)`` of each convolution, views of `params_`; empty without `batch_norm`.

    params_ : ndarray (n_params,)
        All parameters in one vector, padded; `network_` says where each layer lies.

    network_ : ImageNetwork
        The layer table.

    n_features_in_ : int
        Pixels times channels.

    n_outputs_, out_activation_
        Number of outputs, and the name of their activation.

    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, history_, t_, n_iter_
        As in `MLPClassifier`.

    See Also
    --------
    MLPClassifier : The network for tables.
    ImagePreprocessor : Cuts, resizes and normalizes images.
    predict_clips : Classes of short videos.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from nbnet import ConvClassifier
    >>> images, labels = load_digits(return_X_y=True)
    >>> images = images.reshape(-1, 8, 8).astype("float32")
    >>> classifier = ConvClassifier((16, "max_pool", 32), max_iter=5, learning_rate="one_cycle", random_state=0)
    >>> classifier = classifier.set_params(learning_rate_init=0.01).fit(images[:1000], labels[:1000])
    >>> bool(classifier.score(images[1000:], labels[1000:]) > 0.9)
    True
    """

    _session_kind = "conv_session"

    _parameter_constraints: dict = {
        **BaseNetwork._parameter_constraints,
        "conv_layers": [list, tuple],
        "kernel_size": [Interval(Integral, 1, None, closed="left")],
        "padding": [StrOptions({"same", "valid"})],
        "pool_size": [Interval(Integral, 1, None, closed="left")],
        "batch_norm": ["boolean"],
        "image_shape": [tuple, list, None],
        "normalize": ["boolean"],
        "augment": [Augmentation, dict, None],
        "conv_algorithm": [StrOptions({"auto", *(member.name.lower() for member in ConvAlgorithm)})],
        "class_weight": CLASS_WEIGHT,
    }

    @classmethod
    def resnet(cls, depth=8, width=16, **overrides) -> Self:
        """Residual network for small images, with settings that train it well: adamw, one cycle, batch norm.

        Parameters
        ----------
        depth : int, default=8
            Layers with weights: 8, 14, 20 or another 6 n + 2.
        width : int, default=16
            Channels of the first stage; the second has twice, the third four times as many.
        **overrides
            Parameters of the estimator to set otherwise, or in addition, such as `augment`.

        Returns
        -------
        estimator : ConvClassifier
            An ordinary, unfitted estimator; `get_params` shows every setting.
        """
        return cls(**{"conv_layers": resnet_layers(depth, width), **RESNET, **overrides})

    def __init__(
        self,
        conv_layers=(32, "max_pool", 64, "max_pool"),
        hidden_layer_sizes=(128,),
        activation="relu",
        *,
        kernel_size=3,
        padding="same",
        pool_size=2,
        batch_norm=False,
        image_shape=None,
        normalize=True,
        augment=None,
        conv_algorithm="auto",
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        class_weight=None,
        dropout=0.0,
        label_smoothing=0.0,
        warmup_fraction=0.0,
        max_grad_norm=None,
        scoring=None,
        dtype=None,
        n_jobs=None,
        device="cpu",
    ):
        self.conv_layers = conv_layers
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.kernel_size = kernel_size
        self.padding = padding
        self.pool_size = pool_size
        self.batch_norm = batch_norm
        self.image_shape = image_shape
        self.normalize = normalize
        self.augment = augment
        self.conv_algorithm = conv_algorithm
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.warmup_fraction = warmup_fraction
        self.max_grad_norm = max_grad_norm
        self.scoring = scoring
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.device = device

    # ------------------------------------------------------------------ fit

    def _validate_rows(self, X, y="no_validation", *, reset=False, **options):
        return validate_images(self, X, y, reset=reset, **options)

    def _validate_rows_val(self, X_val, dtype):
        X_val = validate_images(self, X_val, name="X_val")
        check_range(X_val, dtype)
        return X_val

    def _prepare_run(self, backend, table, rows, output, call):
        new_network = build_network(self, output.n_outputs)
        params = starting_params(self, new_network, call)
        if call.first:
            channels = self.image_shape_[2]
            self.channel_mean_, self.channel_deviation_ = np.zeros(channels), np.ones(channels)
            if self.normalize:
                statistics = backend.channel_statistics(table.X, self.image_shape_, rows, table.loss_weights)
                self.channel_mean_, self.channel_deviation_ = statistics
        return ImageRun(self, backend, new_network, output, params, call.seed)

    # ------------------------------------------------------------------ views of the parameters

    def _rows_with_weights(self) -> list:
        if "params_" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object is not fitted yet")
        return [row for row in self.network_.layers if row["kind"] in (LayerKind.CONV2D, LayerKind.DENSE)]

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Filters (kernel_size, kernel_size, n_in, n_out), then weights (n_in, n_out): views of `params_`."""
        views = []
        for row in self._rows_with_weights():
            weight = weight_of(self.params_, row)
            k = int(row["kernel_size"])
            views.append(weight.reshape(k, k, -1, weight.shape[1]) if k else weight)
        return views

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Bias (n_out,) of each layer: views of `params_`."""
        return [bias_of(self.params_, row) for row in self._rows_with_weights()]

    @property
    def batch_norms_(self) -> list[BatchNorm]:
        """Factors and running statistics of each convolution with batch norm: views of `params_`."""
        parts = (scale_of, running_mean_of, running_variance_of)
        rows = [row for row in self._rows_with_weights() if row["kind"] == LayerKind.CONV2D]
        return [BatchNorm(*(of(self.params_, row) for of in parts)) for row in rows if row["scale_start"] != NONE]

    # ------------------------------------------------------------------ public

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X,
        y,
        sample_weight=None,
        *,
        X_val=None,
        y_val=None,
        sample_weight_val=None,
        checkpoint=None,
        checkpoint_every=1,
    ) -> Self:
        """Fit the model to images and their classes.

        Parameters
        ----------
        X : array-like of shape (n, height, width), (n, height, width, channels), or (n, n_features) with `image_shape`
            The images, uint8 or float. They are read where they lie, memory-mapped files too; other types are copied as
            float64.
        y : array-like of shape (n,) or indicator matrix (n, n_labels)
            Class labels of any type, or a multilabel indicator matrix.
        sample_weight : array-like of shape (n,), default=None
            Weight of each image: 0 is the image's absence, 2 the image twice.
        X_val, y_val : array-like, default=None
            Validation images. Their loss and score are recorded after each epoch, and with ``early_stopping=True``
            decide instead of a split of X.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of the validation images.
        checkpoint : path, default=None
            File from which an interrupted fit goes on: after a crash, call `fit` again with the same data and
            parameters, and it ends with the bits of an uninterrupted one. It is removed when training is complete.
            `random_state` must be an integer.
        checkpoint_every : int, default=1
            Epochs from one writing of the file to the next.

        Returns
        -------
        self : ConvClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            For invalid input or layers, or where no epoch had finite weights. The estimator is then as it was before.
        """
        kept = dict(checkpoint=checkpoint, checkpoint_every=checkpoint_every)
        return self._fit(X, y, sample_weight, X_val, y_val, sample_weight_val, incremental=False, **kept)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X, y, sample_weight=None, classes=None, *, X_val=None, y_val=None, sample_weight_val=None
    ) -> Self:
        """Update the model with a single epoch over the given images.

        What `normalize` learns stays as the first call has found it; running statistics of batch norm go on.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val
            As in `fit`. ``early_stopping=True`` needs X_val here: each call appends to `validation_scores_`, the best
            weights so far predict, and the next call goes on from the latest.
        classes : array-like of shape (n_classes,), default=None
            All classes, in the first call; y need not contain each of them.

        Returns
        -------
        self : ConvClassifier
            The fitted estimator.
        """
        return self._partial_fit(X, y, sample_weight, classes, X_val, y_val, sample_weight_val)

    @trainer.reporting_faults
    def transform(self, X) -> np.ndarray:
        """Features of each image: what the output layer reads.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        features : ndarray of shape (n, n_features)
            The last hidden layer's output; without hidden layers the last image layer's, flat.
        """
        session, rows = self._session_and_rows(X)
        return trainer.beside(X, session.transform(rows))

    @trainer.reporting_faults
    def _forward(self, X) -> np.ndarray:
        """Output of the network (n, n_outputs) for the user's X."""
        session, rows = self._session_and_rows(X)
        return session.predict(rows)

    def _session_and_rows(self, X):
        check_is_fitted(self)
        if not hasattr(type(X), "as_rows"):  # of a GPU, validated before
            X = self._validate_rows(X)
        check_range(X, self.params_.dtype)
        backend = trainer.backend_for(self.device, self._session_kind, fitted=True)
        session = backend.ConvSession(self.network_, self.params_, self._loss, n_jobs=self.n_jobs)
        return session, as_images(self, backend, X, self.params_.dtype)

    @property
    def _n_features_out(self) -> int:
        return int(self.network_.layers["n_in"][-1])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.transformer_tags.preserves_dtype = []
        return tags
