"""Texts to rows: token for token a plain Python twin's, features as scikit-learn's, always the same bits."""

import copy
import gzip
import itertools
import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.feature_extraction.text import CountVectorizer

import nbnet.texts
import nbnet.tokens
import nbnet.vocabulary
from nbnet.characters import joined_characters, word_characters
from nbnet.cpu.tokens import DOES, KIND_SHIFT, SINGLE
from nbnet.jit import JIT_DISABLED as JIT_OFF
from nbnet.tokens import Analysis, TokenIndex, check_texts
from tests import reference_tokens as reference

DATA = Path(__file__).parents[2] / "shared" / "data"
WORDS_ONLY = Analysis(ngram_range=(1, 1), boundary_tokens=False, merge_repeats=False)

TEXTS = [
    "The cat sat on the mat. The end!",
    "",
    "don't stop me now :) don’t",
    "你好，世界！Hello 世界",
    "  \t\n ",
    "naïve Straße ÉCOLE it's 3.50€ the the the",
    "zebra",
]


def tokens_of(text, **settings):
    analysis = Analysis(ngram_range=(1, 1), boundary_tokens=False, merge_repeats=False, **settings)
    index = TokenIndex(analysis)
    documents = index.extend_transform([text])
    words = np.array(index.words, dtype=object)
    return list(words[documents.ids])


def assert_documents_equal(a, b):
    for x, y in zip(a, b, strict=True):
        assert_array_equal(x, y)
        assert x.dtype == y.dtype


def pairs_of(documents):
    """[(row, count), ...] of each document."""
    ids, counts, starts = documents
    counts = counts if counts.size else np.ones(ids.size, np.uint8)
    spans = itertools.pairwise(starts.tolist())
    return [list(zip(ids[a:b].tolist(), counts[a:b].tolist(), strict=True)) for a, b in spans]


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello , world !"),
        ("don't can’t rock'n'roll", "don't can't rock'n'roll"),
        ("'tis dogs' 'quoted'", "' tis dogs ' ' quoted '"),
        ("snake_case 3,14 x2", "snake_case 3 , 14 x2"),
        ("price: $5 or 5€?", "price : $ 5 or 5 € ?"),
        ("a+b=c <tag>", "a b c tag"),
        (":) :-( ;) =D :P <3 :/ :'( :D", ":) :-( ;) =d :p <3 :/ :'( :d"),
        ("great:) (joke:)", "great :) ( joke :)"),
        ("你好:) 好:D", "你 好 :) 好 :d"),
        ("http://a.org/x?y=1", "http : / / a . org / x ? y 1"),
        ("note:Please 10:30 a;b) see :Perl", "note : please 10 : 30 a ; b ) see : perl"),
        ("note:(see x=(y C:\\dir i<3u", "note : ( see x ( y c : \\ dir i 3u"),
        ("x :// y", "x : / / y"),
        ("你好，世界。Ok", "你 好 ， 世 界 。 ok"),
        ("カタカナ ひらがな 々〇", "カ タ カ ナ ひ ら が な 々 〇"),
        ("\U00020000\U00031350\u9fff", "\U00020000 \U00031350 \u9fff"),
        ("한국어 텍스트", "한국어 텍스트"),
        ("สวัสดีครับ", "สวัสดีครับ"),
        ("مَرْحَبًا بالعالم؟", "مَرْحَبًا بالعالم ؟"),
        ("שָׁלוֹם", "שָׁלוֹם"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ("cafe\u0301 CAFÉ", "cafe\u0301 café"),
        ("ΟΔΟΣ Σ ΑΣ.", "οδος σ ας ."),
        ("İstanbul ISI", "i\u0307stanbul isi"),
        ("ẞ ǅ Ⅷ Ωmega", "ß ǆ ⅷ ωmega"),
        ("so\u00adft zero\u200dwidth\ufeff", "soft zerowidth"),
        ("👍👩\u200d💻❤\ufe0f", "👍 👩 💻 ❤"),
        ("😀😀 ok👍🏽", "😀 😀 ok 👍"),
        ("a\x00b\x01c\ud800d\udfffe", "a b c d e"),
        ("line\none\r\ntwo\u2028three\u3000four\u00a0five", "line one two three four five"),
        ("\u200d", ""),
        ("", ""),
    ],
)
def test_tokens(text, expected):
    assert tokens_of(text) == expected.split()
    assert reference.tokens(text) == expected.split()


def test_case_is_kept_on_request():
    text = "The ΟΔΟΣ İ :P Don’t"
    assert tokens_of(text, lowercase=False) == ["The", "ΟΔΟΣ", "İ", ":P", "Don't"]
    assert reference.tokens(text, lowercase=False) == ["The", "ΟΔΟΣ", "İ", ":P", "Don't"]


@pytest.mark.parametrize(
    ("strip_accents", "expected"), [("ascii", "ecole u"), ("unicode", "ecole 你 u"), (str.swapcase, "école 你 ü")]
)
def test_accents_are_stripped_first(strip_accents, expected):
    assert tokens_of("École 你 Ü", strip_accents=strip_accents) == expected.split()


def test_every_character_does_what_its_category_says():
    kinds = word_characters(True).code_points >> KIND_SHIFT & DOES
    names = ["separator", "single", "word", "ignored"]
    step = 37 if JIT_OFF else 1
    for c in [*range(0, 0x34000, step), *range(0xE0000, 0xE0200)]:
        assert names[kinds[c]] == reference.kind(chr(c)), hex(c)
    assert (kinds[0xE0200:] == 0).all()


def test_han_and_kana_are_known_by_name():
    kinds = word_characters(True).code_points >> KIND_SHIFT & DOES
    for c in range(0x34000):
        name = unicodedata.name(chr(c), "")
        if name.startswith(("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA LETTER", "KATAKANA LETTER")):
            assert kinds[c] == SINGLE, name


def test_every_character_is_lowered_as_str_does():
    lowered = word_characters(True).code_points & 0x1FFFFF
    for c in range(0x110000):
        if chr(c) not in "\u0130\u2019":
            assert chr(lowered[c]) == chr(c).lower()


PIECES = st.one_of(
    st.text(st.characters(codec=None), max_size=6),
    st.sampled_from(
        [":", ";", "=", "<", "3", ")", "(", "-", "'", "’", "/", "D", "P", " ", "a", "你", "Σ", "İ", "\u200d"]
    ),
)


@settings(max_examples=20 if JIT_OFF else 500, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
@example("'a'b:-D")
@example("a:'(")
@example("ΑΣ\u00adα")
def test_random_text_gives_the_twins_tokens(text):
    assert tokens_of(text) == reference.tokens(text)


def shared_texts(name):
    texts = []
    for path in sorted((DATA / name).glob("*.tsv.gz")):
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            texts += [line.rstrip("\n").split("\t", 1)[1] for line in lines][1:]
    return texts


@pytest.mark.parametrize(
    "name",
    ["ag_news_21k", "banking77", "sst2_sentences", "sms_spam", "waimai_10k", "thucnews_titles_20k", "poetry_genre_zh"],
)
def test_shared_texts_give_the_twins_tokens(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no {DATA / name}")
    texts = shared_texts(name)[:: 500 if JIT_OFF else 7]
    index = TokenIndex(WORDS_ONLY)
    documents = index.fit_transform(texts)
    expected = [reference.tokens(text) for text in texts]
    words = np.array(index.words, dtype=object)
    assert words[documents.ids].tolist() == [token for tokens in expected for token in tokens]
    assert_array_equal(np.diff(documents.starts), [len(tokens) for tokens in expected])


# ---------------------------------------------------------------- rows

ANALYSES = [
    Analysis(),
    Analysis(merge_repeats=False),
    Analysis(ngram_range=(1, 1), boundary_tokens=False),
    Analysis(ngram_range=(2, 3), n_buckets=50),
    Analysis(ngram_range=(3, 4)),
    Analysis(ngram_range=(1, 3), n_buckets=1000, boundary_tokens=False, lowercase=False),
    Analysis(ngram_range=(1, 2), subword_range=(3, 6), n_buckets=3000),
    Analysis(ngram_range=(1, 1), subword_range=(1, 2), n_buckets=7, merge_repeats=False),
    Analysis(ngram_range=(2, 2), subword_range=(2, 4), n_buckets=500),
]


@pytest.mark.parametrize("analysis", ANALYSES)
def test_rows_equal_the_twins(analysis):
    index = TokenIndex(analysis)
    documents = index.fit_transform(TEXTS)
    words, buckets, expected = reference.fit_transform(TEXTS, analysis)
    assert index.words == list(words)
    assert index.n_words == len(words)
    assert index.n_rows == len(words) + len(buckets)
    assert index.n_documents == len(TEXTS)
    assert pairs_of(documents) == expected
    assert documents.counts.size == (documents.ids.size if analysis.merge_repeats else 0)
    occurs = [sum(row in dict(pairs) for pairs in expected) for row in range(index.n_rows)]
    assert_array_equal(index.document_frequency, occurs)
    assert_array_equal([index.row_of(word) for word in words], index.word_rows)

    assert_documents_equal(index.transform(TEXTS), documents)
    new = ["The dog and the cat, naïvely", "ΟΔΟΣ 你们好", "mat mat mat"]
    assert pairs_of(index.transform(new)) == reference.transform(new, analysis, words, buckets)


@pytest.mark.parametrize("analysis", ANALYSES)
@pytest.mark.parametrize("n_workers", [2, 3, 8])
def test_workers_and_blocks_change_nothing(analysis, n_workers, monkeypatch):
    index = TokenIndex(analysis)
    documents = index.fit_transform(TEXTS)
    monkeypatch.setattr(nbnet.texts, "BLOCK", 20)
    other = TokenIndex(analysis)
    assert_documents_equal(other.fit_transform(TEXTS, n_workers), documents)
    assert_documents_equal(other.transform(TEXTS, n_workers), documents)
    assert other.words == index.words
    assert_array_equal(other.document_frequency, index.document_frequency)


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 11])
def test_how_far_tokens_are_read_ahead_changes_nothing(n_tokens, monkeypatch):
    analysis = Analysis(stop_words=["the", "on"])
    index, other = TokenIndex(analysis), TokenIndex(analysis)
    documents = index.fit_transform(TEXTS)
    monkeypatch.setattr(nbnet.vocabulary, "READ_AHEAD", n_tokens)
    assert_documents_equal(other.fit_transform(TEXTS), documents)
    assert other.words == index.words
    assert_array_equal(other.document_frequency, index.document_frequency)


def test_a_document_has_the_same_rows_alone_or_among_others():
    index = TokenIndex(Analysis(subword_range=(3, 4)))
    together = pairs_of(index.fit_transform(TEXTS))
    assert [pairs_of(index.transform([text]))[0] for text in TEXTS] == together


@pytest.mark.parametrize("analysis", ANALYSES)
def test_copies_give_the_same(analysis):
    index = TokenIndex(analysis)
    documents = index.fit_transform(TEXTS)
    for other in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert_documents_equal(other.transform(TEXTS), documents)
        assert other.words == index.words
        assert_documents_equal(
            other.extend_transform(["zoo zebra"]), copy.deepcopy(index).extend_transform(["zoo zebra"])
        )


def test_a_pickle_holds_neither_tables_nor_the_list_of_words():
    index = TokenIndex(Analysis())
    index.fit_transform(TEXTS)
    size = len(pickle.dumps(index))
    assert len(index.words) == index.n_words
    assert len(pickle.dumps(index)) == size < 10_000


@pytest.mark.parametrize("analysis", ANALYSES)
def test_extending_keeps_rows_and_adds_what_is_new(analysis):
    index = TokenIndex(analysis)
    index.fit_transform(TEXTS[:3])
    words, rows, before = index.words, index.word_rows, index.transform(TEXTS[:3])
    frequency = index.document_frequency
    extended = index.extend_transform(TEXTS[3:])
    assert index.words[: len(words)] == words
    assert_array_equal(index.word_rows[: rows.size], rows)
    assert index.n_documents == len(TEXTS)
    assert_documents_equal(index.transform(TEXTS[3:]), extended)
    if analysis.subword_range is None:  # a bucket that is new may belong to a subword of an old word
        assert_documents_equal(index.transform(TEXTS[:3]), before)

    whole = TokenIndex(analysis)
    documents = whole.fit_transform(TEXTS)
    assert (index.n_rows, index.words) == (whole.n_rows, whole.words)
    added = index.document_frequency.copy()
    added[: frequency.size] -= frequency
    counted = np.zeros(index.n_rows, np.int64)
    for pairs in pairs_of(extended):
        counted[list(dict(pairs))] += 1
    assert_array_equal(added, counted)
    assert sorted(map(len, pairs_of(index.transform(TEXTS)))) == sorted(map(len, pairs_of(documents)))


def test_extending_nothing_is_fitting():
    a, b = TokenIndex(Analysis()), TokenIndex(Analysis())
    assert_documents_equal(a.extend_transform(TEXTS), b.fit_transform(TEXTS))
    assert_documents_equal(a.fit_transform(TEXTS[:2]), TokenIndex(Analysis()).fit_transform(TEXTS[:2]))  # anew


def test_an_interrupted_fit_leaves_the_index_as_it_was(monkeypatch):
    index = TokenIndex(Analysis())
    documents = index.fit_transform(TEXTS)
    state = pickle.dumps(index)

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(nbnet.tokens, "number_rows", interrupted)
        for fit in (index.fit_transform, index.extend_transform):
            with pytest.raises(KeyboardInterrupt):
                fit(["something new"], 2)
    with pytest.raises(ValueError, match="Empty vocabulary"):
        index.fit_transform([""])
    assert pickle.dumps(index) == state
    assert_documents_equal(index.transform(TEXTS), documents)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_no_documents(n_workers):
    index = TokenIndex(Analysis())
    index.fit_transform(TEXTS)
    for documents in (index.transform([], n_workers), index.extend_transform([], n_workers)):
        assert (documents.ids.size, documents.counts.size, documents.starts.tolist()) == (0, 0, [0])


def test_counts_stop_at_255():
    index = TokenIndex(Analysis(ngram_range=(1, 1)))
    documents = index.fit_transform(["go " * 300, "go " * 254])
    assert pairs_of(documents) == [[(0, 1), (2, 255), (1, 1)], [(0, 1), (2, 254), (1, 1)]]


def test_many_words_make_room():
    texts = [" ".join(f"w{i}" for i in range(n, n + 3000)) for n in range(0, 9000, 1000)]
    texts = texts[:2] if JIT_OFF else texts
    index = TokenIndex(WORDS_ONLY)
    documents = index.fit_transform(texts, 2)
    assert index.words == [f"w{i}" for i in range(index.n_words)]
    assert documents.ids.tolist() == [int(word[1:]) for text in texts for word in text.split()]


@pytest.mark.slow_without_jit
def test_one_long_document():
    text = "".join(f"x{i % 5000} 你好 " for i in range(1_000_000))
    index = TokenIndex(Analysis())
    documents = index.fit_transform([text, "x1"])
    assert index.n_words == 5000 + 4
    assert documents.starts[1] == np.unique(documents.ids[: documents.starts[1]]).size
    assert documents.counts.max() == 255
    assert_documents_equal(index.transform([text, "x1"]), documents)


# ---------------------------------------------------------------- words


def test_words_are_found_as_they_are_written():
    index = TokenIndex(Analysis(subword_range=(3, 3)))
    index.fit_transform(["Don’t go :D"])
    assert index.words == ["\x02", "\x03", "don't", "go", ":d"]
    assert index.row_of("DON'T") == index.row_of("don’t") == index.row_of("don't") == 2
    assert index.row_of(":d") == index.row_of(":D") == 4
    for missing in ("", "do", "don't go", "go missing"):
        assert index.row_of(missing) is None


def test_rows_of_a_words_parts():
    analysis = Analysis(subword_range=(3, 4), n_buckets=2000)
    index = TokenIndex(analysis)
    index.fit_transform(TEXTS)
    words, buckets, _ = reference.fit_transform(TEXTS, analysis)
    for word in ("stop", "stopped", "xyz"):
        parts = reference.subwords(word, (3, 4), 2000)
        expected = [words[word]] if word in words else []
        assert index.rows_of_word(word).tolist() == expected + [buckets[part] for part in parts if part in buckets]
    plain = TokenIndex(Analysis())
    plain.fit_transform(TEXTS)
    assert plain.rows_of_word("stop").tolist() == [plain.row_of("stop")]
    assert plain.rows_of_word("xyz").size == 0


def test_words_of_pretrained_embeddings_get_rows():
    index = TokenIndex(Analysis(stop_words=["of"]))
    index.fit_transform(TEXTS)
    n_rows, documents = index.n_rows, index.transform(TEXTS)
    rows = index.add_words(["zebra", "New", "two words", "new", "", "of", "you"])
    assert rows.tolist() == [index.row_of("zebra"), n_rows, -1, n_rows, -1, -1, n_rows + 1]
    assert index.n_rows == n_rows + 2 == index.document_frequency.size
    assert index.words[-2:] == ["new", "you"]
    assert_array_equal(index.document_frequency[-2:], 0)
    assert_documents_equal(index.transform(TEXTS), documents)
    assert (n_rows, 1) in pairs_of(index.transform(["a new one"]))[0]
    assert index.row_of("words") is None
    assert TokenIndex(Analysis(ngram_range=(2, 2))).add_words(["new"]).tolist() == [-1]


# ---------------------------------------------------------------- like CountVectorizer

WORD_TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "The Quick fox, the fox: fox!",
    "a lazy dog and a Lazy cat  sleep",
    "naïve Straße",
    "",
]


def assert_same_features(index, vectorizer, texts):
    """The words of `index` are the features of `vectorizer`, with the same counts."""
    documents = index.fit_transform(texts)
    counts = vectorizer.fit_transform(texts).toarray()
    columns = np.array([vectorizer.vocabulary_[word] for word in index.words])
    assert len(set(columns)) == len(vectorizer.vocabulary_)
    mine = np.zeros_like(counts)
    for i, pairs in enumerate(pairs_of(documents)):
        for row, count in pairs:
            mine[i, columns[row]] += count
    assert_array_equal(mine, counts)
    assert_array_equal(index.document_frequency, (counts[:, columns] > 0).sum(0))
    assert_documents_equal(index.transform(texts), documents)


@pytest.mark.parametrize(
    "options",
    [
        dict(analyzer="char", ngram_range=(1, 3)),
        dict(analyzer="char", ngram_range=(2, 2), strip_accents="unicode", lowercase=False),
        dict(analyzer="char_wb", ngram_range=(2, 4)),
        dict(analyzer=str.split),
        dict(token_pattern=r"(?u)\b\w\w+\b"),
        dict(token_pattern=r"(?u)\b\w+\b", stop_words="english"),
        dict(token_pattern=r"[a-z]+", strip_accents="ascii", stop_words=["fox"]),
        dict(token_pattern=r"(?u)\b\w+\b", min_df=2),
        dict(token_pattern=r"(?u)\b\w+\b", min_df=0.3),
        dict(token_pattern=r"(?u)\b\w+\b", max_features=2),
        dict(token_pattern=r"(?u)\b\w+\b", lowercase=False, max_features=1, min_df=2),
    ],
)
def test_features_are_those_of_count_vectorizer(options):
    words = options.get("analyzer", "word") == "word"
    index = TokenIndex(Analysis(**{"ngram_range": (1, 1), **options}, boundary_tokens=False))
    assert_same_features(index, CountVectorizer(**options), WORD_TEXTS)
    assert index.row_of(index.words[-1]) == index.word_rows[-1]
    if not words:
        assert index.n_rows == index.n_words


@pytest.mark.parametrize("options", [{}, dict(stop_words=["the", "fox"]), dict(stop_words="english"), dict(min_df=2)])
def test_own_tokens_are_limited_as_count_vectorizer_does(options):
    index = TokenIndex(Analysis(ngram_range=(1, 1), boundary_tokens=False, **options))
    vectorizer = CountVectorizer(token_pattern=r"(?u)\w+|[^\w\s]", **options)
    assert_same_features(index, vectorizer, WORD_TEXTS)


def test_ngrams_of_a_token_pattern_are_hashed():
    a = TokenIndex(Analysis(token_pattern=r"\S+"))
    b = TokenIndex(Analysis())
    texts = ["one two three two one", "two one"]
    assert_documents_equal(a.fit_transform(texts), b.fit_transform(texts))
    assert a.words == b.words


def test_stop_words_are_dropped_before_ngrams():
    stopped = TokenIndex(Analysis(stop_words=["the", "and"]))
    plain = TokenIndex(Analysis())
    assert_documents_equal(stopped.fit_transform(["the cat and dog", "the"]), plain.fit_transform(["cat dog", ""]))


def test_rare_words_still_take_part_in_ngrams():
    texts = ["rare cat", "rarer cat"]
    index = TokenIndex(Analysis(min_df=2, n_buckets=10_000))
    assert pairs_of(index.fit_transform(texts))[0][:3] == [(0, 1), (2, 1), (1, 1)]
    assert index.words == ["\x02", "\x03", "cat"]
    assert index.n_rows == 3 + 5  # begin rare, rare cat, cat end, begin rarer, rarer cat
    assert_documents_equal(index.transform(texts), index.extend_transform(texts))


@pytest.mark.parametrize("n_workers", [1, 2])
def test_documents_are_counted_over_blocks_and_workers(n_workers, monkeypatch):
    monkeypatch.setattr(nbnet.texts, "BLOCK", 1)
    index = TokenIndex(Analysis(min_df=3, max_features=2))
    index.fit_transform(["b", "a", "a b c c c c", "c", "b a a", "d d d d"], n_workers)
    assert index.words[2:] == ["b", "a"]


def test_max_features_takes_the_most_frequent_and_the_earlier_of_equals():
    index = TokenIndex(Analysis(ngram_range=(1, 1), max_features=2))
    index.fit_transform(["b c a a c d"])
    assert index.words[2:] == ["c", "a"]
    index.fit_transform(["d b c a a"])
    assert index.words[2:] == ["d", "a"]
    index.extend_transform(["e e e"])
    assert index.words[2:] == ["d", "a"]
    many = [f"w{i}" for i in range(1000)]
    index = TokenIndex(Analysis(ngram_range=(1, 1), max_features=400))
    index.fit_transform([" ".join(many + many[::3])])  # 334 words twice, and the first 66 of the others
    assert index.words[2:] == [word for i, word in enumerate(many) if i % 3 == 0 or i < 99]


@pytest.mark.parametrize(
    ("analysis", "texts", "name"),
    [
        (Analysis(), ["", " "], "min_df"),
        (Analysis(stop_words=["a"]), ["a"], "stop_words"),
        (Analysis(ngram_range=(1, 1), min_df=2), ["a b", "c"], "min_df=2"),
    ],
)
def test_an_empty_vocabulary_is_an_error(analysis, texts, name):
    with pytest.raises(ValueError, match=f"Empty vocabulary.*{name}"):
        TokenIndex(analysis).fit_transform(texts)


def test_features_must_be_str():
    with pytest.raises(TypeError, match=r"analyzer .* int"):
        TokenIndex(Analysis(analyzer=lambda text: [1, 2])).fit_transform(["a"])


def test_joined_tokens_keep_every_character():
    text = "\x00\x10 \u00adÉ\ud800"
    index = TokenIndex(Analysis(analyzer="char", ngram_range=(1, 1), lowercase=False))
    index.fit_transform([text])
    assert index.words == list(text)
    assert (joined_characters().code_points & 0x1FFFFF == np.arange(0x110000)).all()


# ---------------------------------------------------------------- what users pass


@pytest.mark.parametrize(
    "X",
    [
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        np.array(["a", "b"], dtype=object),
        pd.Series(["a", "b"]),
        pd.Series(["a", "b"], dtype="string"),
        (c for c in "ab"),
    ],
)
def test_sequences_of_texts_become_a_list(X):
    assert check_texts(X) == ["a", "b"]


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ("abc", ValueError, "Iterable over raw text documents expected, string object received."),
        (["a", b"b"], TypeError, "item 1 is bytes.*Decode"),
        (["a", None], TypeError, "item 1 is NoneType"),
        (["a", "b", float("nan")], TypeError, "item 2 is float"),
        (pd.Series(["a", None], dtype="string"), TypeError, "item 1 is NAType"),
        ([1], TypeError, "item 0 is int"),
        ([["a"]], TypeError, "item 0 is list"),
        (3, TypeError, "sequence of str"),
        (np.array([["a"], ["b"]]), ValueError, r"shape \(2, 1\).*one column"),
        (np.array("a"), ValueError, "one-dimensional"),
        (pd.DataFrame({"text": ["a"]}), ValueError, "DataFrame.*one column"),
    ],
)
def test_other_things_are_refused(X, error, message):
    with pytest.raises(error, match=message):
        check_texts(X)
