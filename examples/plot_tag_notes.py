"""
Parts and faults in maintenance notes
=====================================

What technicians write is short and free, and a plant wants to count it: which part had which fault? ``TokenTagger``
learns to mark both from notes whose tokens have tags.
"""

# %%
# Notes are made up here. "B-part" begins the name of a part, "I-part" goes on with it, "O" is all else. Half of the
# parts and faults occur in the notes to test on only.

import matplotlib.pyplot as plt
import numpy as np

from nbnet import TokenTagger

PARTS = (
    "pump P7|drive belt|valve V12|gear box|fan|oil filter|pump P31|conveyor belt|valve V4|motor M2|fuel filter|rotor"
)
FAULTS = "leaking|worn out|cracked|very hot|blocked|loose|leaking badly|worn|bent|too hot|clogged|loud"
FORMS = "{part} is {fault}|found {part} {fault} again|{fault} {part} replaced|checked {part} , not {fault} any more"
FORMS += "|operator says {part} seems {fault} since monday|{part} {fault} , ordered new one|cleaned {part}"


def notes(n, n_known, seed):
    """Tokens and tags of `n` notes that name the first `n_known` parts and faults."""
    rng = np.random.default_rng(seed)
    X, y = [], []
    for _ in range(n):
        tokens, tags = [], []
        for word in rng.choice(FORMS.split("|")).split():
            kind = word.strip("{}")
            named = {"part": PARTS, "fault": FAULTS}.get(kind)
            words = [word] if named is None else rng.choice(named.split("|")[:n_known]).split()
            tokens += [str(token) for token in words]
            tags += ["O"] if named is None else [f"B-{kind}"] + [f"I-{kind}"] * (len(words) - 1)
        X.append(tokens)
        y.append(tags)
    return X, y


X, y = notes(300, 6, 0)
X_test, y_test = notes(300, 12, 1)
for token, tag in zip(X[0], y[0], strict=True):
    print(f"{token:10} {tag}")

# %%
# The score is the F1 of whole entities: first token, last token and kind must be right. Context and the shape of words
# find parts that were never seen.

tagger = TokenTagger(random_state=0).fit(X, y)
print(f"F1 of entities: {tagger.score(X_test, y_test):.3f}")

# %%
# Some notes as the tagger reads them. A bar below a token shows where it is wrong.

COLORS = {"part": "tab:blue", "fault": "tab:red"}
fig, ax = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
for row, (tokens, true, found) in enumerate(zip(X_test[:12], y_test, tagger.predict(X_test[:12]), strict=False)):
    column = 0
    for token, tag, guess in zip(tokens, true, found, strict=True):
        ax.text(column, -row, token, family="monospace", color=COLORS.get(guess[2:], "black"))
        if tag != guess:
            ax.plot([column, column + len(token)], [-row - 0.2] * 2, color="tab:orange", linewidth=3)
        column += len(token) + 1
for place, (kind, color) in enumerate(COLORS.items()):
    ax.text(8 * place, 1.2, kind, color=color, weight="bold")
ax.set(xlim=(0, 62), ylim=(-12, 2))
ax.axis("off")
plt.show()
