import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.configs.files import config_names, config_path
from benchmarks.settings.reading import load_config, nearest_key, parse_config, valid_keys
from benchmarks.settings.schema import Config
from benchmarks.settings.source import ConfigError, ConfigSource, dotted

MINIMAL = """\
model: {name: resnet20}
dataset: {name: digits}
experiment: {name: test}
"""


def error_of(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, overrides, name="demo.yaml")
    return str(caught.value)


def test_absent_keys_take_their_defaults():
    config = parse_config(MINIMAL)
    assert config.pruning.method == "hobs-rspar"
    assert config.pruning.hobs.damping == 1e-3
    assert config.pruning.target_flops_reduction is None
    assert config.experiment.random_seeds == (42,)
    assert config.task_name == "digits-resnet20"


@pytest.mark.parametrize("name", [name for name in config_names() if not name.startswith(("compare_", "transfer_"))])
def test_every_shipped_run_is_valid_and_round_trips(name):
    config = load_config(config_path(name))
    assert parse_config(config.to_yaml()) == config


def test_demo_configuration_asks_for_nine_tenths_of_the_flops_with_one_seed():
    config = load_config(config_path("digits_resnet20"))
    assert config.pruning.target_flops_reduction == 0.9
    assert len(config.experiment.random_seeds) == 1


def test_unknown_key_names_path_line_and_nearest_key():
    message = error_of(MINIMAL + "pruning:\n  target_flop_reduction: 0.9\n")
    assert "'pruning.target_flop_reduction'" in message
    assert "demo.yaml, line 5" in message
    assert "did you mean 'pruning.target_flops_reduction'?" in message


def test_key_in_the_wrong_section_names_the_right_one():
    message = error_of(MINIMAL + "pruning:\n  temperature: 4.0\n")
    assert "did you mean 'pruning.reconstruction.temperature'?" in message


def test_hopeless_key_lists_what_the_section_has():
    message = error_of("model: {name: resnet20, zzz: 1}\ndataset: {name: digits}\nexperiment: {name: x}\n")
    assert "did you mean" not in message
    assert "keys here: name, pretrained, num_classes" in message


@pytest.mark.parametrize(
    ("line", "key", "given"),
    [
        ("rspar: {num_episodes: many}", "pruning.rspar.num_episodes", "'many'"),
        ("rspar: {num_episodes: 2.5}", "pruning.rspar.num_episodes", "2.5"),
        ("rspar: {num_episodes: true}", "pruning.rspar.num_episodes", "True"),
        ("rspar: {num_episodes: 0}", "pruning.rspar.num_episodes", "0"),
        ("hobs: {damping: '0.1'}", "pruning.hobs.damping", "'0.1'"),
        ("hobs: {damping: .nan}", "pruning.hobs.damping", "nan"),
        ("hobs: {use_kfac: 1}", "pruning.hobs.use_kfac", "1"),
        ("hobs: 3", "pruning.hobs", "3"),
        ("constraint: softish", "pruning.constraint", "'softish'"),
        ("target_flops_reduction: 1.0", "pruning.target_flops_reduction", "1.0"),
        ("target_flops_reduction: 0", "pruning.target_flops_reduction", "0"),
        ("target_flops_reduction: [0.9]", "pruning.target_flops_reduction", "[0.9]"),
        ("finetune: {distillation: {weight: 1.5}}", "pruning.finetune.distillation.weight", "1.5"),
    ],
)
def test_ill_typed_or_out_of_range_value_names_key_line_and_value(line, key, given):
    message = error_of(MINIMAL + f"pruning:\n  method: hobs-uniform\n  {line}\n")
    assert repr(key) in message
    assert "demo.yaml, line 6" in message
    assert given in message


def test_every_mistake_is_reported_at_once():
    message = error_of(MINIMAL + "pruning:\n  metod: x\n  constraint: 1\n")
    assert len(message.splitlines()) == 2


def test_missing_sections_are_named():
    message = error_of("")
    for key in ("model", "dataset", "experiment"):
        assert f"the key {key!r} is missing" in message


def test_unknown_method_and_task_say_what_exists_and_where():
    message = error_of(MINIMAL.replace("resnet20", "resnet21") + "pruning: {method: hobs-rspr}\n")
    assert "demo.yaml, line 4" in message
    assert "unknown method 'hobs-rspr'; did you mean 'hobs-rspar'?" in message
    assert "demo.yaml, line 1" in message
    assert "unknown task 'digits-resnet21'; did you mean 'digits-resnet20'?" in message


def test_seeds_are_a_list_of_distinct_whole_numbers():
    seeds = "experiment: {name: test, random_seeds: %s}\n"
    base = "model: {name: resnet20}\ndataset: {name: digits}\n"
    assert parse_config(base + seeds % "[3, 1]").experiment.random_seeds == (3, 1)
    assert "'experiment.random_seeds[1]'" in error_of(base + seeds % "[1, x]")
    assert "each seed once" in error_of(base + seeds % "[1, 1]")
    assert "'experiment.random_seeds'" in error_of(base + seeds % "[]")


def test_overrides_win_and_are_read_as_yaml():
    config = parse_config(
        MINIMAL,
        ["pruning.target_flops_reduction=0.94", "experiment.random_seeds=[1, 2]", "model.pretrained=false"],
    )
    assert config.pruning.target_flops_reduction == 0.94
    assert config.experiment.random_seeds == (1, 2)
    assert config.model.pretrained is False


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("pruning.target_flop_reduction=0.9", "did you mean 'pruning.target_flops_reduction'?"),
        ("pruning.rspar.num_episodes=many", "'pruning.rspar.num_episodes'"),
        ("pruning", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("pruning..x=3", "expected KEY=VALUE"),
        ("model.name.first=3", "'model.name' is 'resnet20', not a section"),
        ("pruning.hobs=[1", "not valid YAML"),
    ],
)
def test_bad_override_is_named(override, said):
    message = error_of(MINIMAL, override)
    assert f"override {override!r}" in message
    assert said in message


def test_exponents_without_a_point_are_numbers():
    # YAML 1.1 reads 3e-4 as text.
    assert parse_config(MINIMAL + "pruning: {rspar: {learning_rate: 3e-4}}").pruning.rspar.learning_rate == 3e-4


def test_key_written_twice_is_refused():
    message = error_of(MINIMAL + "model: {name: resnet56}\n")
    assert "line 4" in message
    assert "second time" in message
    assert "line 1" in message


@pytest.mark.parametrize(
    ("text", "said"), [("a: [1", "not valid YAML"), ("- a\n- b\n", "mapping"), ("1: x\n", "keys are words")]
)
def test_broken_files_are_refused_with_the_file_name(text, said):
    message = error_of(text)
    assert message.startswith("demo.yaml")
    assert said in message


def test_missing_file_lists_those_that_exist(tmp_path):
    (tmp_path / "mine.yaml").write_text(MINIMAL)
    with pytest.raises(FileNotFoundError) as caught:
        load_config(tmp_path / "min.yaml")
    assert "mine.yaml" in str(caught.value)
    assert "digits_resnet20.yaml" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="digits_resnet20"):
        config_path("digit")


def test_differences_ignore_where_results_go_and_name_what_changes_them():
    config = parse_config(MINIMAL)
    elsewhere = parse_config(MINIMAL, ["experiment.save_dir=there", "experiment.random_seeds=[7]"])
    assert config.differences(elsewhere) == []
    other = parse_config(MINIMAL, ["pruning.rspar.num_episodes=7"])
    assert config.differences(other) == ["pruning.rspar.num_episodes: 100 != 7"]


def test_every_key_is_documented():
    def documented(section):
        for name, info in section.model_fields.items():
            assert info.description, name
            if isinstance(info.annotation, type) and hasattr(info.annotation, "model_fields"):
                documented(info.annotation)

    documented(Config)


@given(st.sampled_from([key for key in valid_keys() if len(str(key[-1])) > 4]), st.data())
def test_one_wrong_letter_is_always_understood(path, data):
    leaf = str(path[-1])
    position = data.draw(st.integers(0, len(leaf) - 1))
    letter = data.draw(st.sampled_from(string.ascii_lowercase).filter(lambda x: x != leaf[position]))
    near = nearest_key((*path[:-1], leaf[:position] + letter + leaf[position + 1 :]))
    assert near == path


TREES = st.recursive(
    st.integers(-5, 5) | st.booleans() | st.none() | st.text(string.ascii_letters, max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters, min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(string.ascii_letters, min_size=1), TREES, max_size=4))
def test_parsed_tree_is_what_yaml_reads_and_every_key_has_a_line(tree):
    text = yaml.safe_dump(tree)
    source = ConfigSource.from_yaml(text, name="t")
    assert source.tree == tree
    for key in tree:
        line = int(source.origin((key,)).rsplit(" ", 1)[1])
        assert text.splitlines()[line - 1].startswith((key, f"'{key}'", "? " + key))


def test_key_paths_are_written_as_people_write_them():
    assert dotted(("experiment", "random_seeds", 1)) == "experiment.random_seeds[1]"
