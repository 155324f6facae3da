"""What the door for YAML keeps out, and that it says where."""

import contextlib
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.settings.source import ConfigError, ConfigSource
from benchmarks.settings.yaml_door import DEEPEST, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)
)
REFUSED = {
    "control character": ("model:\n  name: \x07\n", "line 2, column 9: the character '\\x07'"),
    "aliases that multiply": (BOMB, "more than 20,000 values"),
    "an alias of itself": ("model: &a [1, *a]\n", "column 8: an alias of a section or list that it stands in"),
    "a section in itself": ("model: &a {b: *a}\n", "an alias of a section"),
    "endless nesting": ("model: " + "[" * 900 + "]" * 900, "inside each other"),
    "deep nesting": ("model: " + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"more than {DEEPEST} sections"),
    "no integer": ("model:\n  size: !!int abc\n", "line 2, column 9: 'abc' is no int"),
    "no truth": ("model: !!bool abc\n", "line 1, column 8: 'abc' is no bool"),
    "a date by tag": ("model: !!timestamp x\n", "column 8: the tag 'tag:yaml.org,2002:timestamp'"),
    "a set by tag": ("model: !!set {a, b}\n", "the tag 'tag:yaml.org,2002:set'"),
    "an object by tag": ("model: !!python/object/apply:os.system [ls]\n", "the tag 'tag:yaml.org,2002:python/"),
    "half a hexadecimal number": ("model: 0x_\n", "'0x_' is no int"),
    "five thousand digits": ("model: " + "9" * 5000, "a number of 5,000 digits"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "line 3, column 1: the key 'a' stands here a second time"),
    "a list as a key": ("? [a, b]\n: 1\n", "keys are words, got a section or list"),
    "a number as a key": ("1: a\n", "line 1, column 1: keys are words, got 1"),
    "broken": ("a: [1, 2\nb: 3\n", "line 2, column 2"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2, column 1"),
    "a megabyte": ("a: " + "x" * (1 << 20), "at most 1,048,576"),
    "no such character": ('a: "\\UFFFFFFFF"\n', "not valid YAML"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_can_only_be_a_mistake_or_an_attack_is_refused_with_its_place(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        ConfigSource.from_yaml(text, "demo.yaml")
    with pytest.raises(ConfigError):
        ConfigSource({}).override([f"a={text}"])


@pytest.mark.parametrize("base", ["~nobody-of-this-name/x.yaml", '"a\\0b"', "x/" * 3000])
def test_a_base_that_is_no_path_is_refused_with_its_line(tmp_path, base):
    file = tmp_path / "top.yaml"
    file.write_text(f"# laid over another\nextends: {base}\n")
    with pytest.raises(ConfigError, match="line 2"):
        ConfigSource.from_file(file)


def test_a_key_twice_in_an_override_is_refused():
    with pytest.raises(ConfigError, match="column 11: the key 'name' stands here a second time"):
        ConfigSource({}).override(["experiment={name: a, name: b}"])


def test_aliases_and_numbers_of_everyday_use_go_through():
    text = "common: &c {lr: 3e-4, seeds: [1, 2]}\none: *c\ntwo: *c\ndate: 2024-01-02\nlimit: .inf\n"
    values = read_yaml(text, "demo")
    assert values["one"] == values["two"] == {"lr": 3e-4, "seeds": [1, 2]}
    assert values["date"] == "2024-01-02"
    assert read_yaml("", "demo") is None


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        read_yaml(text, "any")


@settings(max_examples=100)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.text("abc xyz-_.", max_size=8)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text("abcdef", min_size=1), inner, max_size=3)
        ),
        max_leaves=10,
    )
)
def test_what_yaml_writes_is_read_back(value):
    assert read_yaml(yaml.safe_dump(value), "any") == value
