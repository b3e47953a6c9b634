"""Scores of entities, against cases worked out by hand."""

import pytest

from nbnet.metrics import entity_f1, entity_spans

CASES = [
    ("", []),
    ("O O", []),
    ("B-x", [(0, 1, "x")]),
    ("B-x I-x O", [(0, 2, "x")]),
    ("B-x B-x I-x", [(0, 1, "x"), (1, 3, "x")]),
    ("B-x I-y", [(0, 1, "x"), (1, 2, "y")]),  # another type begins anew
    ("O I-x I-x O I-x", [(1, 3, "x"), (4, 5, "x")]),  # as conlleval: I- without B- begins an entity
    ("B-a-b I-a-b B-a", [(0, 2, "a-b"), (2, 3, "a")]),
    ("NN I-x VB", [(1, 2, "x")]),
]


@pytest.mark.parametrize(("tags", "spans"), CASES, ids=[tags or "empty" for tags, _ in CASES])
def test_spans(tags, spans):
    assert entity_spans(tags.split()) == spans


def test_a_tag_that_ends_as_an_entity_does_is_outside():
    assert entity_spans(["xyz", "I-z", "O"]) == [(1, 2, "z")]


def test_f1_counts_whole_entities_over_all_sentences():
    true = ["B-x I-x O B-y".split(), ["B-x"], ["O"], []]
    predicted = ["B-x O O B-y".split(), ["B-y"], ["B-x"], []]  # 1 of 3 is found, 4 are predicted
    assert entity_f1(true, predicted) == pytest.approx(2 / 7)
    assert entity_f1(true, true) == 1.0
    assert entity_f1([["O"]], [["O"]]) == 1.0


def test_weights_of_sentences():
    true, predicted = [["B-x", "B-y"], ["B-x"], ["O"]], [["B-x", "O"], ["B-y"], ["B-x"]]
    assert entity_f1(true, predicted, [1, 1, 1]) == entity_f1(true, predicted) == 2 / 6
    assert entity_f1(true, predicted, [3, 0.5, 0]) == pytest.approx(6 / 10)
    assert entity_f1(true, predicted, [2, 0, 1]) == entity_f1(*([s[0], s[0], s[2]] for s in (true, predicted)))
    with pytest.raises(ValueError, match="sample_weight"):
        entity_f1(true, predicted, [1, 1])


def test_unequal_lengths():
    with pytest.raises(ValueError, match="Sentence 1 has 2 tags in y_true, but 1 in y_pred"):
        entity_f1([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match="y_true has 1 sentences, but y_pred has 2"):
        entity_f1([["O"]], [["O"], ["O"]])


def test_f1_is_that_of_seqeval():
    seqeval = pytest.importorskip("seqeval.metrics")
    true = ["B-x I-x O B-y I-y".split(), "O I-x I-y O".split(), "B-x B-x O".split()]
    predicted = ["B-x I-x O B-y O".split(), "O I-x I-y I-y".split(), "B-x I-x O".split()]
    assert entity_f1(true, predicted) == pytest.approx(seqeval.f1_score(true, predicted))
