"""`TokenTagger`: a tag for each token of a sentence, such as the entities that a text names."""

from __future__ import annotations

from itertools import chain
from numbers import Integral, Real
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ..metrics import entity_f1
from ..tagging import (
    TokenFeatures,
    Transitions,
    best_tags,
    check_bio,
    check_sentences,
    check_tags,
    split_features,
    transitions_of,
)
from .base import unchanged_on_error
from .text import TextEmbeddingClassifier
from .validation import check_validation_arguments

BLOCK = 1024  # sentences that are read at a time: the features of a token are much longer than the token

# parameters of the network below, which has them under the same names
OF_NETWORK = (
    "embedding_dim hidden_layer_sizes activation min_df solver alpha batch_size learning_rate learning_rate_init "
    "max_iter shuffle tol verbose early_stopping n_iter_no_change dropout label_smoothing dtype n_jobs"
).split()
FITTED_BY_NETWORK = ("classes_", "n_iter_", "loss_curve_", "history_")


class TokenTagger(BaseEstimator):
    """Tagger of sentences: named entities, parts of speech, or words in text without blanks.

    A network sees each token with its neighbors: hashed features (the token, its lower-cased form, its prefixes and
    suffixes, its shape, how often it was seen) have vectors, those of a token and of the `window` around it are summed,
    and layers above compute how probable each tag is. The tags of a sentence are then those that maximize::

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
        Neighbors on each side whose features a token has too.

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

    entity_bias : float, default=1.0
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

    Notes
    -----
    There is no model file for taggers yet; `pickle` and `joblib` keep them.

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
        affix_range=(1, 4),
        min_df=2,
        tag_scheme="bio",
        transition_weight=0.3,
        entity_bias=1.0,
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
    def fit(self, X, y, *, X_val=None, y_val=None) -> Self:
        """Learn from sentences and the tags of their tokens.

        Parameters
        ----------
        X : sequence of sequences of str
            The tokens of each sentence, for Chinese its characters: ``list(text)``. A sentence may be empty.
        y : sequence of sequences of str
            The tags of the tokens.
        X_val, y_val : as X and y, default=None
            Validation sentences. The loss on them is recorded after each epoch, and with ``early_stopping=True``
            decides when to stop, instead of that on a part of X.

        Returns
        -------
        self : TokenTagger
            The fitted tagger.

        Raises
        ------
        TypeError
            For a sentence that is a str, and for a token or tag that is none; says where it is.
        ValueError
            For other invalid input. The tagger is then as it was before.
        """
        with unchanged_on_error(self):
            affix_range = self._checked_affix_range()
            check_validation_arguments(X_val, y_val, None)
            sentences, tags = self._checked(X, y, "X", "y")
            random_state = check_random_state(self.random_state)
            held_out = None
            if X_val is not None:
                held_out = self._checked(X_val, y_val, "X_val", "y_val")
            elif self.early_stopping:  # whole sentences: the tokens of one know each other
                sentences, of_val, tags, tags_of_val = train_test_split(
                    sentences, tags, test_size=self.validation_fraction, random_state=random_state
                )
                held_out = of_val, tags_of_val
            if not any(sentences):
                raise ValueError(
                    f"There is no token to learn from: X has {len(sentences)} sentences, all of them empty."
                )

            self._features = TokenFeatures(sentences, self.window, affix_range)
            validation = {}
            if held_out is not None:
                validation = {"X_val": self._features.documents(held_out[0]), "y_val": list(chain(*held_out[1]))}
            self.classifier_ = TextEmbeddingClassifier(
                **{name: getattr(self, name) for name in OF_NETWORK},
                analyzer=split_features,
                token_weights=None,
                sublinear_tf=False,
                target_loss=None,
                scoring="loss",
                random_state=random_state.randint(np.iinfo(np.int32).max),
            ).fit(self._features.documents(sentences, learning=True), list(chain(*tags)), **validation)
            for name in FITTED_BY_NETWORK:
                setattr(self, name, getattr(self.classifier_, name))
            self.transitions_ = transitions_of(tags, self.classes_, self.tag_scheme == "bio")
        return self

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

    def score(self, X, y) -> float:
        """F1 of the entities with ``tag_scheme="bio"``, else the share of tokens with the right tag.

        Parameters
        ----------
        X, y : sequence of sequences of str
            Sentences and their tags.

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
            return entity_f1(tags, predicted)
        correct = [a == b for a, b in zip(chain(*tags), chain(*predicted), strict=True)]
        return float(np.mean(correct)) if correct else 1.0  # as the F1 where there is nothing to find

    def _checked_affix_range(self) -> tuple[int, int] | None:
        bounds = self.affix_range
        if bounds is None:
            return None
        if len(bounds) != 2 or not all(isinstance(n, Integral) for n in bounds) or not 1 <= bounds[0] <= bounds[1]:
            raise ValueError(f"affix_range must be two integers (shortest, longest) from 1 on, got {bounds!r}.")
        return tuple(bounds)

    def _checked(self, X, y, of: str, name: str) -> tuple[list[list[str]], list[list[str]]]:
        sentences = check_sentences(X, of)
        tags = check_tags(y, sentences, name, of)
        if self.tag_scheme == "bio":
            check_bio(tags, name)
        return sentences, tags

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
