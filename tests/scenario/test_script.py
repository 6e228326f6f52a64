"""The language: what is parsed, what is refused and where, and rewriting."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from ringflow.errors import ScenarioError, SpecError
from ringflow.scenario.arguments import Arguments, Usage, duration_s, size_bytes
from ringflow.scenario.describing import OPTIONS, array_of, spec_of
from ringflow.scenario.running import run
from ringflow.scenario.script import parse, quoted, words_of
from ringflow.scenario.short import Names
from ringflow.scenario.table import COMMANDS, PREFIXES

GOOD = """# One sentence,
# and its second line.

# a comment
first a b=c "d e" f="g h"
input

more
----
out 1
out 2

second
----
"""


def test_a_file_is_purpose_and_commands() -> None:
    """Words with keys and quotes, input with empty lines, outputs up to an empty line."""
    script = parse(GOOD)
    assert script.purpose == "One sentence, and its second line."
    first, second = script.commands
    assert [(word.key, word.text, word.column) for word in first.words] == [
        ("", "first", 1),
        ("", "a", 7),
        ("b", "c", 9),
        ("", "d e", 13),
        ("f", "g h", 19),
    ]
    assert (first.body, first.expected) == ("input\n\nmore\n", ("out 1", "out 2"))
    assert (second.name, second.expected, second.line) == ("second", (), 13)


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a b", 'say "no"', "C:\\new", "two\nlines", "\t\r\x00", "a=b", "=", "\u2028",
        "\ud800", "é ü",
    ],
)  # fmt: skip
def test_any_text_is_one_word(text: str) -> None:
    """With a key and without one; a line of it is one line, in a file too."""
    line = f"send {quoted(text)} reason={quoted(text)} end"
    assert line.encode().decode().splitlines() == [line]
    said = [(word.key, word.text) for word in words_of(line, 1, "x.txt")]
    assert said == [("", "send"), ("", text), ("reason", text), ("", "end")]


def test_rewriting_changes_outputs_only() -> None:
    """Everything else stays byte for byte; the same outputs give the same text."""
    script = parse(GOOD)
    assert script.with_outputs([("out 1", "out 2"), ()]) == GOOD
    changed = script.with_outputs([(), ("new",)])
    assert changed == GOOD.replace("out 1\nout 2\n", "") + "new\n"
    assert parse(changed).with_outputs([("out 1", "out 2"), ()]) == GOOD


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("launch adder\n----\n", "1:1", "says no purpose"),
        ("# why\n\nsettle\n", "3:1", "no ---- follows 'settle'"),
        ("# why\n\n----\n", "3:1", "---- without a command"),
        ('# why\n\nsend a "b\n----\n', "3:8", "a quote in a word"),
        ('# why\n\nsend a b"c"\n----\n', "3:9", "a quote in a word"),
        ('# why\n\nsend a b="c\\d"\n----\n', "3:8", "write two for one"),
    ],
)
def test_what_is_not_well_formed_is_refused(text: str, place: str, problem: str) -> None:
    """The error names file, line and column."""
    with pytest.raises(ScenarioError) as caught:
        parse(text, "x.txt")
    assert str(caught.value).startswith(f"x.txt:{place}: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("line", "column", "problem"),
    [
        ("lanch adder", 1, "no command 'lanch'; there are: devices"),
        ("quiet lanch adder", 7, "no command 'lanch'"),
        ("launch", 1, "no KERNEL; usage: launch KERNEL [on=DEVICE]"),
        ("settle now", 8, "a word too much; usage: settle"),
        ("advance soon", 9, "TIME is 'soon', not a time such as 10ms"),
        ("advance -5s", 9, "TIME is '-5s', not a time such as 10ms"),
        ("step -1", 6, "COUNT is '-1', not a whole number from 0 on"),
        ("until kernel.launched.v1 steps=-1", 26, "steps is '-1', not a whole number from 0 on"),
        ("migrate adder", 9, "no to=; usage: migrate KERNEL to=DEVICE"),
        ("crash loss=much", 7, "loss is 'much', not one of all, none"),
        ("launch adder of=x", 14, "no option 'of'"),
        ("launch adder on=a on=b", 19, "'on' is given twice"),
        ("limits speed=1", 8, "no limit 'speed'"),
        ("kernel k", 1, "either by file= or in the lines that follow"),
        ("kernel k file=none.cu", 10, "can't read 'none.cu'"),
        ("await x", 1, "nothing begun is named 'x'"),
        ("begin x settle", 9, "'settle' can't be begun"),
        ("acknowledge k c through=4", 17, "not an output such as 4.0"),
        ("last-number k", 13, "no PRODUCER"),
        ("retire k", 8, "no CHECKPOINT"),
        ("connect a next", 11, "no TARGET; usage: connect KERNEL ROUTE TARGET"),
    ],
)
def test_a_command_that_is_not_right_is_refused(
    line: str, column: int, problem: str, tmp_path: Path
) -> None:
    """Line and column of the word at fault, and what would be right."""
    outcome = run(parse(f"# why\n\n{line}\n----\n", "x.txt"), folder=tmp_path)
    assert outcome.failure.startswith(f"x.txt:3:{column}: ")
    assert problem in outcome.failure


def test_values_have_units() -> None:
    """Times and sizes, and what is none."""
    assert [duration_s(text) for text in ("10ms", "-1h", "1.5s")] == [0.01, -3600.0, 1.5]
    assert [size_bytes(text) for text in ("7", "2KiB", "1GiB")] == [7, 2048, 1 << 30]
    for text in ("10", "s", "1y"):
        with pytest.raises(ValueError, match=text):
            duration_s(text)


def test_every_usage_says_its_own_name() -> None:
    """The table's keys are the usages' first words; the documentation has each of them."""
    documented = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()
    for name, entry in COMMANDS.items():
        assert entry.usage == Usage.of(entry.usage.text)
        assert entry.usage.text.split()[0] == name
        assert f"`{name}" in documented, f"docs/scenarios.md lacks {name}"


def test_the_documentation_has_an_example_of_each_command() -> None:
    """Each line is one that the table accepts, prefixes included."""
    documented = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()
    (listed,) = re.findall(r"```text\n(seed .*?)```", documented, re.DOTALL)
    seen: set[str] = set()
    for line in listed.splitlines():
        (command,) = parse(f"# why\n\n{line}\n----\n").commands
        words = command.words
        if words[0].text in PREFIXES:
            seen.add(words[0].text)
            words = words[2 if words[0].text == "begin" else 1 :]
        seen.add(words[0].text)
        Arguments(attrs.evolve(command, words=words), COMMANDS[words[0].text].usage, "docs")
    assert seen == {*COMMANDS, *PREFIXES}


def test_routes_and_arrays_are_described_in_words() -> None:
    """A route's messages are its kernel's own, or said whole; an array has dtype, shape, value."""
    source = 'extern "C" __global__ void k(int) {}'
    routed = "next log(Total,Entry:9(at:u32,to:u64),Bye:8)"
    given = {"messages": "Add:1(value:u64) Total:2", "routes": routed}
    spec = spec_of("k", source, {**given, "checkpoint_every_s": "0.5"}, "v1")
    assert [(one.name, [m.name for m in one.messages]) for one in spec.routes] == [
        ("next", []),
        ("log", ["Total", "Entry", "Bye"]),
    ]
    assert spec.checkpoint_every_s == 0.5
    assert array_of("uint8[2,2]=arange").tolist() == [[0, 1], [2, 3]]
    assert array_of("float32[2]").tolist() == [0.0, 0.0]
    for routes in ("log(Hop)", "log(", "a-b", "log(Entry:x)", "log(Entry:9(at))"):
        with pytest.raises(SpecError):
            spec_of("k", source, {**given, "routes": routes}, "v1")
    for array in ("uint8", "uint8[]", "none[4]", "uint8[4]=x"):
        with pytest.raises(SpecError):
            array_of(array)


def test_short_names_lead_back_to_ids() -> None:
    """What a scenario printed may be given as an argument; other words stay as they are."""
    names = Names()
    long = "adder@snapshot-0123456789abcdef"
    assert names.shorten(long) == "adder@snapshot-1"
    assert names.whole("adder@snapshot-1") == long
    assert names.whole("adder@snapshot-2 before-1") == "adder@snapshot-2 before-1"


def test_the_page_has_every_option_of_kernels() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()
    (line,) = [one for one in page.splitlines() if "Options of `kernel`" in one]
    assert [one for one in OPTIONS if not re.search(rf"`{one}[=`]", line)] == []
