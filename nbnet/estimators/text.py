"""`TextEmbeddingClassifier`: labels of raw texts, by a network over embedded words and n-grams."""

from __future__ import annotations

import os
from numbers import Integral, Real
from typing import Self

import numpy as np
import scipy.sparse as sp
from sklearn.base import ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, RealNotInt, StrOptions, validate_params
from sklearn.utils.multiclass import _check_partial_fit_first_call
from sklearn.utils.validation import check_is_fitted

from .. import random, trainer
from ..network import EmbeddingTable, LayerKind, bias_of, weight_of
from ..tokens import check_texts
from .base import NetworkEstimator, unchanged_on_error
from .reader import Reader
from .run import Job
from .text_run import LOSSES, POOLINGS, TextRun, starting_params, table_of
from .text_targets import TextTargetsMixin
from .text_vocabulary import VocabularyMixin

SOLVERS = ("adagrad", "sgd", "adam")
SHARED_PARAMETERS = (
    "hidden_layer_sizes activation alpha batch_size learning_rate learning_rate_init power_t max_iter shuffle "
    "random_state tol verbose warm_start momentum early_stopping validation_fraction beta_1 beta_2 epsilon "
    "n_iter_no_change dropout label_smoothing warmup_fraction scoring dtype n_jobs device"
).split()


class TextEmbeddingClassifier(
    TextTargetsMixin,
    VocabularyMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClassifierMixin,
    NetworkEstimator,
):
    """Classifier of raw texts: embedded words and n-grams, pooled, below a linear or a deeper network.

    What fastText's ``supervised`` does, as an estimator of scikit-learn: texts go in as they are, and the same seed
    gives the same bits for any number of workers. Words, n-grams of words and parts of words (`ngram_range`,
    `subword_range`) have vectors; those of a text become one by `pooling`, and a network computes the classes from it.
    Only what occurs in the training texts has a vector: the model grows with the data, not with `n_buckets`.

    Parameters
    ----------
    embedding_dim : int, default=100
        Numbers in a vector.

    hidden_layer_sizes : array-like of shape (n_layers - 2,), default=()
        Number of units of each hidden layer; ``()`` gives a linear classifier of the pooled vector.

    activation : str or sequence of str, default="relu"
        Activation of the hidden layers, or one for each of them, as in `MLPClassifier`.

    pooling : {"mean", "sum", "sqrtn", "max", "attention"}, default="sqrtn"
        How the vectors of a text become one. "mean" is the weighted mean, "sqrtn" the weighted sum by the root of the
        sum of squared weights, "max" the largest number in each column, "attention" a mean whose weights come from a
        learned query. Vectors of "mean" and "attention" are shorter: a `learning_rate_init` of up to 0.2 suits them.

    analyzer : {"word", "char", "char_wb"} or callable, default="word"
        What a token is. "word": words and numbers, each Chinese and Japanese character by itself, and each punctuation
        mark, emoticon and emoji. The others as in `sklearn.feature_extraction.text.CountVectorizer`, a
        callable from a text to its tokens among them; "char" and "char_wb" make the n-grams of `ngram_range`.

    lowercase, strip_accents, stop_words, token_pattern
        As in `sklearn.feature_extraction.text.CountVectorizer`; with a `token_pattern`, or with an `analyzer` that is
        not "word", its code cuts the texts, which is slower. Without one (the default), the tokens above.

    ngram_range : tuple (shortest, longest), default=(1, 2)
        Words in an n-gram. Those of two words and more are hashed into `n_buckets`.

    subword_range : tuple (shortest, longest) or None, default=None
        Characters in the parts of words that have vectors too, hashed as well: an unknown word then has a vector.

    boundary_tokens : bool, default=True
        Whether a text begins and ends with a token of its own, so that n-grams know the first and the last word.

    token_weights : {"idf"} or None, default="idf"
        Weight of tokens in the pooling: scikit-learn's smooth inverse document frequency, or all the same.

    sublinear_tf : bool, default=True
        Whether a token that occurs c times in a text weighs ``1 + log(c)``, and not c.

    min_df : int or float, default=1
        In how many training texts, or in which share of them, a word must occur to have a row. n-grams and parts of
        words have one at once.

    max_features : int or None, default=None
        Most words that have rows, the most frequent ones.

    n_buckets : int, default=2**20
        Hash values of n-grams and parts of words; those that share a value share a vector.

    loss : {"softmax", "hierarchical_softmax", "one_vs_all"}, default="softmax"
        "softmax": one distribution over all classes; for a text with several labels the target is spread evenly over
        them. "hierarchical_softmax": the same along the paths of a Huffman tree over the classes, for thousands of
        them: a step costs the length of a path. "one_vs_all": one sigmoid for each class.

    pretrained_embeddings : path, mapping, (words, array) or None, default=None
        Vectors to start from, each of `embedding_dim` numbers: a text file as fastText writes it (``.vec``, also
        ``.vec.gz``), a mapping from words to vectors (a dict, or gensim's KeyedVectors), or a list of words with the
        array of their vectors. Words that do not occur in the training texts are left out.

    freeze_embeddings : bool, default=False
        Whether vectors stay as they start. With `pretrained_embeddings`, what has no vector there then stays at zero.

    solver : {"adagrad", "sgd", "adam"}, default="adagrad"
        "adagrad" keeps one sum of squared gradients a row, "adam" two moments a number; rows that a batch does not have
        are left alone. "sgd" is fastText's. Gradients are summed over a batch, not averaged.

    alpha : float, default=0.0
        Strength of the L2 penalty on the layers above the embedding.

    batch_size : int, default="auto"
        Texts of a batch; "auto" is 32.

    learning_rate : str, default="linear"
        How the learning rate changes; values as in `MLPClassifier`.

    learning_rate_init : float, default=0.04
        The constant, first or highest learning rate. fastText's 0.1 to 1.0 are for ``solver="sgd"``.

    power_t : float, default=0.5
        Exponent of "invscaling".

    max_iter : int, default=20
        Most epochs.

    shuffle : bool, default=True
        Whether to shuffle the texts before each epoch.

    random_state : int, RandomState instance or None, default=None
        Seed of initial vectors, shuffles, dropout and the split for early stopping. One number is drawn from it in each
        call of `fit` and `partial_fit`.

    target_loss : float or None, default=0.2
        Training ends after an epoch whose mean loss exceeds that of perfect predictions by at most this much (which is
        not zero with `label_smoothing`, or with several labels a text). Texts are soon learned by heart: what more
        epochs add does not generalize. None: all `max_iter` epochs, or until `tol` and `n_iter_no_change` say stop.

    tol : float, default=1e-4
        Smallest improvement of the loss, or with early stopping of the validation score, that counts as one.

    verbose : bool or int, default=False
        Whether to print a line after each epoch.

    warm_start : bool, default=False
        Whether `fit` goes on from the vectors and weights of the previous call; new words get rows, and document
        frequencies and class prior count the texts of all calls.

    momentum : float, default=0.0
        Momentum of sgd, from 0 to 1, in the layers above the embedding.

    early_stopping : bool, default=False
        Whether to stop where the validation score does not improve, and to keep the weights of the best epoch. The
        texts to validate on are X_val of `fit`, or else `validation_fraction` of X; their words get no vectors.

    validation_fraction : float, default=0.1
        Share of X held out for early stopping.

    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay rates of adam's first and second moments, in [0, 1).

    epsilon : float, default=1e-8
        Added to the denominator of adam's step.

    n_iter_no_change : int, default=10
        Epochs without improvement by `tol` before training stops.

    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, as ``{class_label: weight}``; "balanced" weights by the inverse of the class's
        share. Multiplied with `sample_weight`; a text with several labels has the mean of their weights.

    dropout : float, default=0.0
        Share of the pooled vector and of each hidden layer's outputs set to zero in a training step, in [0, 1).

    label_smoothing : float, default=0.2
        Share of each target that is spread evenly over all classes, in [0, 1); "hierarchical_softmax" has none.

    sample_labels : bool, default=False
        With an indicator matrix and a softmax, learn one of a text's labels in each epoch, drawn at random, instead of
        their even distribution: fastText's way. "one_vs_all" learns all labels in any case.

    warmup_fraction : float, default=0.0
        Share of all steps on which the learning rate rises on a straight line, in [0, 1).

    scoring : str, callable or None, default=None
        Validation score: None is the accuracy, "loss" the negative validation loss, else the name of a scorer of
        scikit-learn or ``scorer(estimator, X, y)``.

    dtype : {"float32", "float64"} or None, default=None
        Type to compute in; None is float32.

    n_jobs : int or None, default=None
        Workers. None takes as many as the work is worth, and one inside a joblib worker. The result has the same bits
        for any number.

    device : {"cpu", "cuda", "cuda:N", "auto"}, default="cpu"
        Where to compute: "cuda" is the first NVIDIA GPU, "cuda:1" the second; "auto" is the first one if it can be
        used, else the CPU, and a warning says why. A fitted model predicts on the CPU where there is no GPU. This is
        not yet measured on a GPU.

    deterministic : bool, default=True
        False allows a GPU to add the steps of sgd and adagrad to the vectors in any order: no tokens have to be sorted
        for it, and two fits differ a little. Of no effect with adam, and on the CPU.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
        Class labels; for an indicator matrix the numbers of its columns.

    class_prior_ : ndarray (n_classes,)
        Weighted share of each class in the training texts, class weights included: the prediction for a text without
        any known word.

    vocabulary_ : dict
        Row of each word in `embeddings_`.

    embeddings_ : ndarray (n_rows, embedding_dim)
        Vectors of words, n-grams and parts of words, a copy.

    idf_ : ndarray (n_rows,) or None
        Weight of each row; None without `token_weights`.

    coefs_, intercepts_ : list of ndarray
        Weight (n_in, n_out) and bias (n_out,) of each fully connected layer: views of `params_`.

    params_ : ndarray (n_params,)
        All parameters in one vector, padded; `network_` says where each layer lies.

    network_ : Network
        The layer table.

    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, history_, t_, n_iter_
        As in `MLPClassifier`.

    See Also
    --------
    MLPClassifier : The network for tables.

    Notes
    -----
    A learning rate that is too high ends training with a ConvergenceWarning and the weights of the last good epoch, or
    those that it started from.

    References
    ----------
    Joulin, Grave, Bojanowski, Mikolov, Bag of tricks for efficient text classification, 2017.

    Examples
    --------
    >>> from nbnet import TextEmbeddingClassifier
    >>> texts = ["what a lovely film", "lovely, just lovely", "a dull film", "so dull and so long"]
    >>> labels = ["good", "good", "bad", "bad"]
    >>> classifier = TextEmbeddingClassifier(random_state=0).fit(texts, labels)
    >>> classifier.predict(["lovely!", "dull."]).tolist()
    ['good', 'bad']
    >>> classifier.predict_proba(["nothing known"]).tolist()
    [[0.5, 0.5]]
    """

    _session_kind = "text_session"

    _parameter_constraints: dict = {
        **{name: NetworkEstimator._parameter_constraints[name] for name in SHARED_PARAMETERS},
        "embedding_dim": [Interval(Integral, 1, None, closed="left")],
        "pooling": [StrOptions(set(POOLINGS))],
        "analyzer": [StrOptions({"word", "char", "char_wb"}), callable],
        "lowercase": ["boolean"],
        "strip_accents": [StrOptions({"ascii", "unicode"}), callable, None],
        "stop_words": [StrOptions({"english"}), list, tuple, set, frozenset, None],
        "token_pattern": [str, None],
        "ngram_range": [tuple, list],
        "subword_range": [tuple, list, None],
        "boundary_tokens": ["boolean"],
        "token_weights": [StrOptions({"idf"}), None],
        "sublinear_tf": ["boolean"],
        "min_df": [Interval(RealNotInt, 0, 1, closed="both"), Interval(Integral, 1, None, closed="left")],
        "max_features": [Interval(Integral, 1, None, closed="left"), None],
        "n_buckets": [Interval(Integral, 1, 2**31 - 1, closed="both")],
        "loss": [StrOptions(set(LOSSES))],
        "pretrained_embeddings": [str, os.PathLike, HasMethods("__getitem__"), None],
        "freeze_embeddings": ["boolean"],
        "sample_labels": ["boolean"],
        "deterministic": ["boolean"],
        "solver": [StrOptions(set(SOLVERS))],
        "target_loss": [Interval(Real, 0, None, closed="left"), None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        embedding_dim=100,
        hidden_layer_sizes=(),
        *,
        activation="relu",
        pooling="sqrtn",
        analyzer="word",
        lowercase=True,
        strip_accents=None,
        stop_words=None,
        token_pattern=None,
        ngram_range=(1, 2),
        subword_range=None,
        boundary_tokens=True,
        token_weights="idf",
        sublinear_tf=True,
        min_df=1,
        max_features=None,
        n_buckets=2**20,
        loss="softmax",
        pretrained_embeddings=None,
        freeze_embeddings=False,
        solver="adagrad",
        alpha=0.0,
        batch_size="auto",
        learning_rate="linear",
        learning_rate_init=0.04,
        power_t=0.5,
        max_iter=20,
        shuffle=True,
        random_state=None,
        target_loss=0.2,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.0,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        class_weight=None,
        dropout=0.0,
        label_smoothing=0.2,
        sample_labels=False,
        warmup_fraction=0.0,
        scoring=None,
        dtype=None,
        n_jobs=None,
        device="cpu",
        deterministic=True,
    ):
        self.embedding_dim = embedding_dim
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.pooling = pooling
        self.analyzer = analyzer
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.stop_words = stop_words
        self.token_pattern = token_pattern
        self.ngram_range = ngram_range
        self.subword_range = subword_range
        self.boundary_tokens = boundary_tokens
        self.token_weights = token_weights
        self.sublinear_tf = sublinear_tf
        self.min_df = min_df
        self.max_features = max_features
        self.n_buckets = n_buckets
        self.loss = loss
        self.pretrained_embeddings = pretrained_embeddings
        self.freeze_embeddings = freeze_embeddings
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.target_loss = target_loss
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.sample_labels = sample_labels
        self.warmup_fraction = warmup_fraction
        self.scoring = scoring
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.device = device
        self.deterministic = deterministic

    # ------------------------------------------------------------------ fit

    def _prepare_fit(self, backend, X, y, sample_weight, validation, incremental):
        X_val, y_val, sample_weight_val = validation
        analysis, first = self._analysis(), self._starts_anew(incremental)
        if not first and analysis != self._index.analysis:
            raise ValueError(
                "The parameters that cut texts into tokens differ from those of the fitted vocabulary; fit with "
                "warm_start=False to start anew."
            )
        table, class_weights = self._training_table(X, y, sample_weight, first, incremental)
        documents = np.flatnonzero(table.loss_weights)  # a weight of 0 is the document's absence
        random_state = check_random_state(self.random_state)
        seed = random.draw_seed(random_state)
        held_out = None
        if X_val is not None:
            held_out = self._validation_table(X_val, y_val, sample_weight_val, class_weights)
        elif self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        elif self.early_stopping:
            documents, held_out_documents = self._split(table.encoded, documents, random_state)
            held_out = table.take(held_out_documents)
        if documents.size < len(table.X):
            table = table.take(documents)

        self._loss = LOSSES[self.loss]
        rows = self._learn_vocabulary(backend, analysis, table, first)
        dtype = np.dtype(self.dtype or (np.float32 if first else self.params_.dtype))
        self._learn_prior(table, first, dtype)
        if first:  # the tree of later calls is that of the first one
            is_tree = self.loss == "hierarchical_softmax"
            self._tree = backend.huffman_tree(self._class_counts[0]) if is_tree else None
        latest = None if first else self._latest if incremental else self.params_
        self.network_, params = starting_params(self, backend, self._index, len(self.classes_), latest, dtype, seed)
        run = TextRun(self, backend, params, table, seed, rows, is_new=first and self.pretrained_embeddings is None)
        return Job(run, table, np.arange(len(documents)), held_out, first)

    def __getstate__(self) -> dict:
        state = super().__getstate__()
        return {key: value for key, value in state.items() if key != "_reader"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if "params_" in vars(self):
            self._reader = Reader(self, self.params_)

    # ------------------------------------------------------------------ views of the parameters

    @property
    def embeddings_(self) -> np.ndarray:
        """Vectors of tokens (n_rows, embedding_dim), a copy; `vocabulary_` has the rows of words. Can be set."""
        vectors = self._embedding_table()[:]
        vectors.flags.writeable = False  # or a change of an element would be lost
        return vectors

    @embeddings_.setter
    def embeddings_(self, values) -> None:
        table, values = self._embedding_table(), np.asarray(values)
        if values.shape != table.shape:
            raise ValueError(f"embeddings_ must have the shape {table.shape}, got {values.shape}.")
        table[:] = values
        self._latest_params = None  # what training goes on from

    def _embedding_table(self) -> EmbeddingTable:
        return table_of(self._params(), self.network_)

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Weight (n_in, n_out) of each layer above the embedding: views of `params_`."""
        return [weight_of(self._params(), row) for row in self._dense_layers()]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Bias (n_out,) of each layer above the embedding: views of `params_`."""
        return [bias_of(self._params(), row) for row in self._dense_layers()]

    def _dense_layers(self) -> list:
        self._params()
        return [row for row in self.network_.layers if row["kind"] == LayerKind.DENSE]

    def _params(self) -> np.ndarray:
        if "params_" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object is not fitted yet")
        return self.params_

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
        """Learn vocabulary and network from texts and their labels.

        Parameters
        ----------
        X : sequence of str of shape (n_documents,)
            The texts.
        y : array-like of shape (n_documents,) or indicator matrix (n_documents, n_labels)
            Labels of any type, or which labels a document has, dense or sparse.
        sample_weight : array-like of shape (n_documents,), default=None
            Weight of each document. One of weight 0 is absent: its words do not enter the vocabulary either.
        X_val, y_val : array-like, default=None
            Validation documents. Their loss and score are recorded after each epoch, and with ``early_stopping=True``
            decide instead of a split of X.
        sample_weight_val : array-like of shape (n_val_documents,), default=None
            Weights of the validation documents.
        checkpoint : path, default=None
            File from which an interrupted fit goes on: after a crash, call `fit` again with the same data and
            parameters, and it ends with the bits of an uninterrupted one. It is removed when training is complete.
            `random_state` must be an integer.
        checkpoint_every : int, default=1
            Epochs from one writing of the file to the next.

        Returns
        -------
        self : TextEmbeddingClassifier
            The fitted estimator.

        Raises
        ------
        TypeError
            If an item of X is no str; says which.
        ValueError
            For other invalid input, and for a `checkpoint` of another fit. The estimator is then as it was before.
        """
        kept = dict(checkpoint=checkpoint, checkpoint_every=checkpoint_every)
        return self._fit(X, y, sample_weight, X_val, y_val, sample_weight_val, incremental=False, **kept)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X, y, sample_weight=None, classes=None, *, X_val=None, y_val=None, sample_weight_val=None
    ) -> Self:
        """Go on with a single epoch over the given documents, whose new words and n-grams get rows.

        `min_df` counts in these documents alone, `max_features` bounds the words of all calls together, and the
        inverse document frequencies and the class prior are those of the documents of all calls.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val
            As in `fit`. ``early_stopping=True`` needs X_val here: each call appends to `validation_scores_`, the best
            weights so far predict, and the next call goes on from the latest.
        classes : array-like of shape (n_classes,), default=None
            All classes, in the first call; y need not contain each of them. For an indicator matrix the numbers of its
            columns.

        Returns
        -------
        self : TextEmbeddingClassifier
            The fitted estimator.
        """
        with unchanged_on_error(self):
            _check_partial_fit_first_call(self, classes)
            return self._fit(X, y, sample_weight, X_val, y_val, sample_weight_val, incremental=True)

    def predict(self, X) -> np.ndarray:
        """Most probable class of each text, or its labels.

        Parameters
        ----------
        X : sequence of str of shape (n_documents,)
            The texts.

        Returns
        -------
        y : ndarray of shape (n_documents,) or indicator matrix (n_documents, n_labels)
            Predicted classes. After fitting on an indicator matrix: the labels with a probability of at least 0.5, with
            ``loss="softmax"`` at least the most probable one; sparse if that of `fit` was.
        """
        probabilities = self.predict_proba(X)
        if not self._multilabel:
            return self.classes_[probabilities.argmax(axis=1)]
        labels = self._decide(probabilities).astype(int)
        return sp.csr_array(labels) if self._sparse_labels else labels

    def predict_proba(self, X) -> np.ndarray:
        """Probability of each class.

        Parameters
        ----------
        X : sequence of str of shape (n_documents,)
            The texts.

        Returns
        -------
        probabilities : ndarray of shape (n_documents, n_classes)
            In the order of `classes_`. They sum to 1, unless ``loss="one_vs_all"`` was fitted on an indicator matrix. A
            text without any known word or n-gram gets `class_prior_`.
        """
        return self._read(X, "predict")

    def predict_log_proba(self, X) -> np.ndarray:
        """Logarithm of `predict_proba`.

        Parameters
        ----------
        X : sequence of str of shape (n_documents,)
            The texts.

        Returns
        -------
        log_probabilities : ndarray of shape (n_documents, n_classes)
            In the order of `classes_`.
        """
        probabilities = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return np.log(probabilities, out=probabilities)

    @validate_params(
        {
            "k": [Interval(Integral, 1, None, closed="left")],
            "threshold": [Interval(Real, 0, 1, closed="both")],
        },
        prefer_skip_nested_validation=True,
    )
    def predict_top_k(self, X, k=1, threshold=0.0) -> tuple[np.ndarray, np.ndarray]:
        """The `k` most probable classes of each text, the most probable first.

        Parameters
        ----------
        X : sequence of str of shape (n_documents,)
            The texts.
        k : int, default=1
            Classes a text, at most as many as there are.
        threshold : float, default=0.0
            Classes of a smaller probability are left out.

        Returns
        -------
        labels : ndarray of shape (n_documents, k)
            Entries of `classes_`. If any was left out, an array of objects with None in its place.
        probabilities : ndarray of shape (n_documents, k)
            Their probabilities, 0 for what was left out.
        """
        check_is_fitted(self, "params_")
        if k > len(self.classes_):
            raise ValueError(f"k={k} exceeds the number of classes, {len(self.classes_)}.")
        probabilities = self.predict_proba(X)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        probabilities = np.take_along_axis(probabilities, order, axis=1)
        labels, left_out = self.classes_[order], probabilities < threshold
        if left_out.any():
            labels = labels.astype(object)
            labels[left_out] = None
            probabilities[left_out] = 0.0
        return labels, probabilities

    def transform(self, X) -> np.ndarray:
        """Vector of each text: its pooled tokens, as the network above them sees it.

        Parameters
        ----------
        X : sequence of str of shape (n_documents,)
            The texts.

        Returns
        -------
        vectors : ndarray of shape (n_documents, embedding_dim)
            Zero for a text without any known word or n-gram.
        """
        return self._read(X, "transform")

    def _read(self, X, what: str) -> np.ndarray:
        if "params_" not in vars(self):
            check_is_fitted(self, "params_")
        texts = check_texts(X)
        if not texts:
            self._validate_texts(texts)
        if self._reader.device != self.device:  # set since
            self._reader = Reader(self, self.params_)
        with trainer.faults_of(self.device):
            return getattr(self._reader, what)(texts, self.n_jobs)

    @property
    def _n_features_out(self) -> int:
        return self._embedding_table().shape[1]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.classifier_tags.multi_label = True
        tags.transformer_tags.preserves_dtype = []
        return tags
