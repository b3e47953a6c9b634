"""The README's table of texts and images: ``python -m benchmarks.readme``, from the figures in results.json."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results.json"
SHORT = "banking77 x 20"  # 200,000 texts of 12 words; predicted are the 3,080 of its test part
NEWS = "ag_news_21k x 13"  # 273,000 texts of 40 words
WORDS = {"unigrams": "words", "bigrams": "words and pairs"}
CORES = {"one core": "", "two cores": ", two cores"}


def seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def ratio(row_ratio: float, asked: float | None) -> str:
    """Bold where less than asked."""
    return f"**{row_ratio:.2f}**" if asked is not None and row_ratio < asked else f"{row_ratio:.2f}"


def text_rows(speed: list[dict]) -> list[tuple]:
    """nbnet's own solver beside fastText."""
    found = {(row["case"], row["who"]): row for row in speed}
    titles = {
        f"train {case}, {n}, {cores}": f"texts: fit {about}, 5 epochs, {words}{more}"
        for case, about in ((SHORT, "200,000 short ones"), (NEWS, "273,000 news"))
        for n, words in WORDS.items()
        for cores, more in CORES.items()
    }
    titles |= {
        f"predict {SHORT}, {n}, test part": f"texts: predict 3,080 short ones, {words}" for n, words in WORDS.items()
    }
    rows = []
    for case, title in titles.items():
        own, peer = found[case, "nbnet, adagrad"], found[case, "fastText, 0.9.3 / nbnet, adagrad"]
        rows.append((title, own["seconds"], ratio(peer["ratio"], peer["asked"]), ""))
    return rows


def image_rows(steps: list[dict]) -> list[tuple]:
    """Steps that something is asked of, and all training steps, beside PyTorch."""
    rows = []
    for row in steps:
        if row["what"] == "train" or row["asked"] is not None:
            what = "training step" if row["what"] == "train" else "prediction"
            title = f"images: {row['net']}, batch 128, {what}{', two cores' if row['cores'] == 2 else ''}"
            rows.append((title, row["nbnet"] / 1e3, "", ratio(row["PyTorch"] / row["nbnet"], row["asked"])))
    return rows


def main() -> None:
    results = json.loads(RESULTS.read_text())
    print("| case | nbnet | fastText | PyTorch |\n|---|---:|---:|---:|")
    for title, own, fasttext, pytorch in text_rows(results["text"]["speed"]) + image_rows(results["images"]["steps"]):
        print(f"| {title} | {seconds(own)} | {fasttext} | {pytorch} |")


if __name__ == "__main__":
    main()
