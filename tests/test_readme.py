"""README.zh-CN.md says what README.md says: the same headings, commands, tables, links and names, in their order."""

import re
from difflib import ndiff
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
LANGUAGES = re.compile(r"\[[^]]*\]\((?:README\.md|README\.zh-CN\.md)\)")  # links from the one to the other

pytestmark = pytest.mark.skipif(not (ROOT / ENGLISH).exists(), reason="the source tree has no README")


def blocks_of(text):
    """The text without its code blocks, and those, each without comments."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    without = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return without, [(kind, re.sub(r"\s*#.*", "", code)) for kind, code in blocks]


def headings(text):
    """Levels."""
    return [len(marks) for marks in re.findall(r"^(#+) ", blocks_of(text)[0], flags=re.MULTILINE)]


def commands(text):
    """Lines of code, and the language that each block names."""
    return [line for kind, code in blocks_of(text)[1] for line in (f"```{kind}", *filter(None, code.splitlines()))]


def tables(text):
    """Of each row what has a number in it; of other cells only that they are there."""
    rows = re.findall(r"^\|(.*)\|\s*$", text, flags=re.MULTILINE)
    return [[cell.strip() if re.search(r"\d", cell) else "..." for cell in row.split("|")] for row in rows]


def numbers(text):
    """Those outside of code and tables, sorted: their order is the language's."""
    prose = re.sub(r"^\|.*", "", blocks_of(text)[0], flags=re.MULTILINE)
    return sorted(re.findall(r"\d+(?:\.\d+)*", prose))


def names(text):
    """Code within sentences, sorted: their order is the language's."""
    return sorted(re.findall(r"`([^`\n]+)`", blocks_of(text)[0]))


def links(text):
    return re.findall(r"\]\(([^)]*)\)", LANGUAGES.sub("", text))


@pytest.mark.parametrize("part", [headings, commands, tables, numbers, names, links], ids=lambda part: part.__name__)
def test_the_chinese_readme_is_in_step(part):
    english, chinese = (part((ROOT / name).read_text(encoding="utf-8")) for name in (ENGLISH, CHINESE))
    if english != chinese:
        changed = [line for line in ndiff([*map(str, english)], [*map(str, chinese)]) if line[0] in "+-"]
        pytest.fail(
            f"{CHINESE} is not in step with {ENGLISH}: {part.__name__} differ. Translate what has changed there ('-' "
            f"is only in {ENGLISH}, '+' only in {CHINESE}):\n" + "\n".join(changed)
        )


def test_the_translation_links_to_the_original():
    assert f"]({ENGLISH})" in (ROOT / CHINESE).read_text(encoding="utf-8")


def test_the_parts_that_are_compared():
    text = "# A\n\n## B 3\n\n```python\nx = 1  # one\n# two\n```\n\n"
    text += "| a | b 2 |\n|---|---:|\n| 1.5 ms | c |\n\n`f` [g](h) 7.25\n"
    assert headings(text) == [1, 2]
    assert commands(text) == ["```python", "x = 1"]
    assert tables(text) == [["...", "b 2"], ["...", "..."], ["1.5 ms", "..."]]
    assert numbers(text) == ["3", "7.25"]
    assert names(text) == ["f"]
    assert links(text) == ["h"]
