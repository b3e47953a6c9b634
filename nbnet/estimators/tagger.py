"""`TokenTagger`: a tag for each token of a sentence, such as the entities that a text names."""

from __future__ import annotations

from collections import Counter
from copy import copy
from itertools import chain
from numbers import Integral, Real
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import _check_partial_fit_first_call
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ..metrics import entity_f1
from ..tagging import (
    Tagged,
    TokenFeatures,
    Transitions,
    best_tags,
    check_bio,
    check_sentences,
    check_tag_names,
    check_tags,
    checked_affix_range,
    count_transitions,
    split_features,
    transitions_of,
)
from .base import unchanged_on_error
from .saving import SavingMixin
from .text import TextEmbeddingClassifier
from .validation import check_checkpoint, check_validation_arguments, check_weights

BLOCK = 1024  # sentences that are read at a time: the features of a token are much longer than the token

# parameters of the network below, which has them under the same names
OF_NETWORK = (
    "embedding_dim hidden_layer_sizes activation min_df solver alpha batch_size learning_rate learning_rate_init "
    "max_iter shuffle tol verbose early_stopping n_iter_no_change dropout label_smoothing dtype n_jobs"
).split()
FITTED_BY_NETWORK = ("classes_", "n_iter_", "loss_curve_", "history_")


class TokenTagger(SavingMixin, BaseEstimator):
    """Tagger of sentences: named entities, parts of speech, or words in text without blanks.

    A network sees each token with its neighbors: hashed features (the token, its lower-cased form, its prefixes and
    suffixes, its shape, how often it was seen) have vectors, those of a token and of the `window` around it are summed
    with those of the words in its wider `context`, and layers above compute how probable each tag is. The tags of a
    sentence are then those that maximize::

        sum over i of log p(t_i | tokens around i) + transition_weight * log(p(t_i | t_(i-1)) / p(t_i))

    where the second part is counted in the training sentences. Only features of the training tokens have vectors, so
    the model grows with the data.

    Parameters
    ----------
    embedding_dim : int, default=50
        Numbers in a feature's vector.

    hidden_layer_sizes : array-like of shape (n_layers - 2,), default=()
        Number of units of each hidden layer above the summed vectors.

    window : int, default=2
        Neighbors on each side whose features a token has too, each distance for itself.

    context : int, default=8
        Neighbors on each side whose lower-cased forms are features of a token, whatever their distance: they say what
        the text is about.

    affix_range : tuple (shortest, longest) or None, default=(1, 4)
        Characters in the prefixes and suffixes of a token.

    min_df : int, default=2
        In how many tokens a feature must occur to have a vector. Above 1, training has unknown tokens too, and
        learns to tell them by shape and neighbors.

    tag_scheme : {"bio"} or None, default="bio"
        "bio": tags are "O", "B-x" and "I-x"; no "I-x" is ever predicted that does not go on after "B-x" or "I-x", and
        `score` is the F1 of entities. None: any tags, and `score` is the share of tokens with the right tag.

    transition_weight : float, default=0.3
        Weight of the transitions between tags. Neighbors are seen by the network already: 1 would count them twice.

    entity_bias : float, default=2.0
        Added to the score of all tags but "O" with ``tag_scheme="bio"``. Where entities are rare a network misses more
        of them than it makes up: F1 wants both to be balanced. Can be changed after `fit`.

    activation, solver, alpha, batch_size, learning_rate, learning_rate_init, max_iter, shuffle
        As in `TextEmbeddingClassifier`, whose documents are tokens here.

    random_state : int, RandomState instance or None, default=None
        Seed of initial vectors, shuffles, dropout and the split for early stopping.

    tol : float, default=1e-4
        Smallest improvement of the loss that counts as one.

    verbose : bool or int, default=False
        Whether to print a line after each epoch.

    early_stopping : bool, default=False
        Whether to stop where the loss on validation sentences does not improve, and to keep the weights of the best
        epoch. The sentences are X_val of `fit`, or else `validation_fraction` of X.

    validation_fraction : float, default=0.1
        Share of the sentences held out for early stopping.

    n_iter_no_change : int, default=10
        Epochs without improvement by `tol` before training stops.

    dropout : float, default=0.3
        Share of the summed vector and of each hidden layer's outputs set to zero in a training step, in [0, 1).

    label_smoothing : float, default=0.0
        Share of each target that is spread evenly over all tags, in [0, 1).

    dtype : {"float32", "float64"} or None, default=None
        Type to compute in; None is float32.

    n_jobs : int or None, default=None
        Workers; None takes as many as the work is worth. The result has the same bits for any number.

    Attributes
    ----------
    classes_ : ndarray (n_tags,)
        The tags.

    classifier_ : TextEmbeddingClassifier
        The network; its documents are the features of single tokens.

    transitions_ : Transitions
        ``first`` (n_tags,) and ``after`` (n_tags, n_tags): logarithm of how much likelier a tag is at the begin of a
        sentence, or behind the tag of the row, than anywhere; -inf for what is never predicted.

    n_iter_, loss_curve_, history_
        As in `TextEmbeddingClassifier`.

    See Also
    --------
    TextEmbeddingClassifier : One label for a whole text.
    nbnet.metrics.entity_f1 : The score of entities.

    References
    ----------
    Viterbi, Error bounds for convolutional codes and an asymptotically optimum decoding algorithm, 1967.

    Examples
    --------
    >>> from nbnet import TokenTagger
    >>> X = ["Ada met Alan in London".split(), "Alan went to Paris".split(), "we like Ada".split()] * 10
    >>> y = ["B-person O B-person O B-place".split(), "B-person O O B-place".split(), "O O B-person".split()] * 10
    >>> tagger = TokenTagger(random_state=0).fit(X, y)
    >>> tagger.predict(["Ada went to London".split()])
    [['B-person', 'O', 'O', 'B-place']]
    """

    _parameter_constraints: dict = {
        **{name: TextEmbeddingClassifier._parameter_constraints[name] for name in OF_NETWORK},
        "window": [Interval(Integral, 0, None, closed="left")],
        "context": [Interval(Integral, 0, None, closed="left")],
        "affix_range": [tuple, list, None],
        "min_df": [Interval(Integral, 1, None, closed="left")],
        "tag_scheme": [StrOptions({"bio"}), None],
        "transition_weight": [Interval(Real, 0, None, closed="left")],
        "entity_bias": [Interval(Real, None, None, closed="neither")],
        "random_state": ["random_state"],
        "validation_fraction": TextEmbeddingClassifier._parameter_constraints["validation_fraction"],
    }

    def __init__(
        self,
        embedding_dim=50,
        hidden_layer_sizes=(),
        *,
        window=2,
        context=8,
        affix_range=(1, 4),
        min_df=2,
        tag_scheme="bio",
        transition_weight=0.3,
        entity_bias=2.0,
        activation="relu",
        solver="adagrad",
        alpha=0.0,
        batch_size="auto",
        learning_rate="linear",
        learning_rate_init=0.04,
        max_iter=10,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        dropout=0.3,
        label_smoothing=0.0,
        dtype=None,
        n_jobs=None,
    ):
        self.embedding_dim = embedding_dim
        self.hidden_layer_sizes = hidden_layer_sizes
        self.window = window
        self.context = context
        self.affix_range = affix_range
        self.min_df = min_df
        self.tag_scheme = tag_scheme
        self.transition_weight = transition_weight
        self.entity_bias = entity_bias
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.dtype = dtype
        self.n_jobs = n_jobs

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
        """Learn from sentences and the tags of their tokens.

        Parameters
        ----------
        X : sequence of sequences of str
            The tokens of each sentence, for Chinese its characters: ``list(text)``. A sentence may be empty.
        y : sequence of sequences of str
            The tags of the tokens.
        sample_weight : array-like of shape (n_sentences,), default=None
            Weight of each sentence's tokens in the loss, and of its tags in the transitions. A sentence of weight 0 is
            absent.
        X_val, y_val : as X and y, default=None
            Validation sentences. The loss on them is recorded after each epoch, and with ``early_stopping=True``
            decides when to stop, instead of that on a part of X.
        sample_weight_val : array-like of shape (n_val_sentences,), default=None
            Weights of the validation sentences.
        checkpoint : path, default=None
            File from which an interrupted fit goes on: after a crash, call `fit` again with the same data and
            parameters, and it ends with the bits of an uninterrupted one. It is removed when training is complete.
            `random_state` must be an integer.
        checkpoint_every : int, default=1
            Epochs from one writing of the file to the next.

        Returns
        -------
        self : TokenTagger
            The fitted tagger.

        Raises
        ------
        TypeError
            For a sentence that is a str, and for a token or tag that is none; says where it is.
        ValueError
            For other invalid input, and for a `checkpoint` of another fit. The tagger is then as it was before.
        """
        with unchanged_on_error(self):
            check_checkpoint(self, checkpoint, checkpoint_every)
            affix_range = checked_affix_range(self.affix_range)
            random_state = check_random_state(self.random_state)
            network = self._network(random_state)
            training, held_out = self._tagged(X, y, sample_weight, X_val, y_val, sample_weight_val)
            if held_out is None and self.early_stopping:  # whole sentences: the tokens of one know each other
                positions = train_test_split(
                    np.arange(len(training.tags)), test_size=self.validation_fraction, random_state=random_state
                )
                training, held_out = map(training.take, positions)
            self._features = TokenFeatures(training.usage(), self.window, self.context, affix_range)
            kept = dict(checkpoint=checkpoint, checkpoint_every=checkpoint_every)
            network.fit(*self._arguments(training, learning=True), **self._validation(held_out), **kept)
            self._learned(network, count_transitions(training.tags, training.weights, network.classes_))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X, y, sample_weight=None, classes=None, *, X_val=None, y_val=None, sample_weight_val=None
    ) -> Self:
        """Go on with a single epoch over the given sentences, whose new features get vectors.

        `min_df` counts in these sentences alone; how often tokens and transitions occur is that of all calls.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val
            As in `fit`. ``early_stopping=True`` needs X_val here.
        classes : array-like of shape (n_tags,), default=None
            All tags, in the first call; y need not have each of them.

        Returns
        -------
        self : TokenTagger
            The fitted tagger.
        """
        with unchanged_on_error(self):
            affix_range = checked_affix_range(self.affix_range)
            training, held_out = self._tagged(X, y, sample_weight, X_val, y_val, sample_weight_val)
            if _check_partial_fit_first_call(self, classes):
                check_tag_names(self.classes_.tolist(), self.tag_scheme == "bio")
                self.classes_ = self.classes_.astype(np.str_)
                network = self._network(check_random_state(self.random_state))
                usage, counts = Counter(), 0.0
            else:
                fitted = self._features
                for name, value in (("window", self.window), ("context", self.context), ("affix_range", affix_range)):
                    if value != getattr(fitted, name):
                        raise ValueError(
                            f"{name}={value!r} differs from that of the fitted features, {getattr(fitted, name)!r}; "
                            "call fit to start anew."
                        )
                network = copy(self.classifier_).set_params(**{name: getattr(self, name) for name in OF_NETWORK})
                usage, counts = fitted.usage, self._transition_counts
            self._features = TokenFeatures(usage + training.usage(), self.window, self.context, affix_range)
            learning = self._arguments(training, learning=True)
            network.partial_fit(*learning, classes=self.classes_, **self._validation(held_out))
            self._learned(network, counts + count_transitions(training.tags, training.weights, network.classes_))
        return self

    @property
    def transitions_(self) -> Transitions:
        """Transitions between tags, from counts, under the present `tag_scheme`."""
        if "_transition_counts" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object is not fitted yet")
        return transitions_of(self._transition_counts, self.classes_, self.tag_scheme == "bio")

    def predict(self, X) -> list[list[str]]:
        """Most probable tags of each sentence.

        Parameters
        ----------
        X : sequence of sequences of str
            The tokens of each sentence.

        Returns
        -------
        y : list of lists of str
            A tag for each token.
        """
        sentences = self._read(X)
        scores = np.concatenate([np.empty((0, len(self.classes_))), *self._probabilities(sentences)])
        np.log(np.maximum(scores, np.finfo(np.float32).tiny), out=scores)
        if self.tag_scheme == "bio":
            scores[:, self.classes_ != "O"] += self.entity_bias
        weighted = Transitions(
            *(
                np.multiply(gain, self.transition_weight, out=gain.copy(), where=gain > -np.inf)
                for gain in self.transitions_
            )
        )
        starts = np.cumsum([0, *map(len, sentences)])
        tags = self.classes_[best_tags(scores, starts, weighted)].tolist()
        return [
            tags[first : first + len(sentence)] for first, sentence in zip(starts.tolist(), sentences, strict=False)
        ]

    def predict_proba(self, X) -> list[np.ndarray]:
        """Probability of each tag at each token, as the network sees it: without the transitions between tags.

        Parameters
        ----------
        X : sequence of sequences of str
            The tokens of each sentence.

        Returns
        -------
        probabilities : list of ndarray of shape (n_tokens, n_tags)
            For each sentence, in the order of `classes_`.
        """
        sentences = self._read(X)
        empty = np.empty((0, len(self.classes_)), self.classifier_.params_.dtype)
        everything = np.concatenate([empty, *self._probabilities(sentences)])
        return np.split(everything, np.cumsum([len(sentence) for sentence in sentences]))[:-1]

    def score(self, X, y, sample_weight=None) -> float:
        """F1 of the entities with ``tag_scheme="bio"``, else the share of tokens with the right tag.

        Parameters
        ----------
        X, y : sequence of sequences of str
            Sentences and their tags.
        sample_weight : array-like of shape (n_sentences,), default=None
            How much the entities, or the tokens, of each sentence count.

        Returns
        -------
        score : float
            From 0 to 1.

        Raises
        ------
        ValueError
            For a tag that `fit` has not seen, and for sentences that have not as many tags as tokens.
        """
        sentences = self._read(X)
        tags = check_tags(y, sentences, "y", "X")
        unknown = sorted(set(chain(*tags)) - set(self.classes_.tolist()))
        if unknown:
            raise ValueError(f"y has tags that were not there in fit: {unknown}; known are {self.classes_.tolist()}.")
        predicted = self.predict(sentences)
        if self.tag_scheme == "bio":
            return entity_f1(tags, predicted, sample_weight)
        correct = [a == b for a, b in zip(chain(*tags), chain(*predicted), strict=True)]
        if not correct:
            return 1.0  # as the F1 where there is nothing to find
        weights = None
        if sample_weight is not None:
            weights = np.repeat(_check_sample_weight(sample_weight, sentences), [len(of) for of in sentences])
        return float(np.average(correct, weights=weights))

    def _network(self, random_state) -> TextEmbeddingClassifier:
        """The network of these parameters, not fitted."""
        return TextEmbeddingClassifier(
            **{name: getattr(self, name) for name in OF_NETWORK},
            analyzer=split_features,
            token_weights=None,
            sublinear_tf=False,
            target_loss=None,
            scoring="loss",
            random_state=random_state.randint(np.iinfo(np.int32).max),
        )

    def _tagged(self, X, y, sample_weight, X_val, y_val, sample_weight_val) -> tuple[Tagged, Tagged | None]:
        """Validated sentences to learn from, and those to validate on."""
        check_validation_arguments(X_val, y_val, sample_weight_val)
        training = self._checked(X, y, sample_weight, ("X", "y", "sample_weight"))
        if not any(training.sentences):
            raise ValueError(
                f"There is no token to learn from: X has {len(training.sentences)} sentences, all of them empty."
            )
        if X_val is None:
            return training, None
        return training, self._checked(X_val, y_val, sample_weight_val, ("X_val", "y_val", "sample_weight_val"))

    def _checked(self, X, y, sample_weight, names: tuple[str, str, str]) -> Tagged:
        sentences = check_sentences(X, names[0])
        tags = check_tags(y, sentences, names[1], names[0])
        if self.tag_scheme == "bio":
            check_bio(tags, names[1])
        weights = check_weights(sample_weight, np.empty(len(sentences)), names[2])
        return Tagged(sentences, tags, weights).take(np.flatnonzero(weights))

    def _arguments(self, tagged: Tagged, learning: bool):
        """What the network learns from: documents, labels and weights, one of each a token."""
        return self._features.documents(tagged.sentences, learning), *tagged.targets()

    def _validation(self, held_out: Tagged | None) -> dict:
        if held_out is None:
            return {}
        return dict(zip(("X_val", "y_val", "sample_weight_val"), self._arguments(held_out, False), strict=True))

    def _learned(self, network: TextEmbeddingClassifier, transition_counts: np.ndarray) -> None:
        """Set the trained network and how often tags follow each other."""
        self.classifier_, self._transition_counts = network, transition_counts
        for name in FITTED_BY_NETWORK:
            setattr(self, name, getattr(network, name))

    @property
    def _trained(self) -> TextEmbeddingClassifier:
        return self.classifier_

    def _read(self, X) -> list[list[str]]:
        check_is_fitted(self, "classifier_")
        return check_sentences(X)

    def _probabilities(self, sentences: list[list[str]]):
        """Probabilities (n_tokens, n_tags) of the tokens of some sentences at a time."""
        for first in range(0, len(sentences), BLOCK):
            documents = self._features.documents(sentences[first : first + BLOCK])
            if documents:
                yield self.classifier_._reader.predict(documents, self.n_jobs)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        return tags
