import dataclasses
import json

import pytest

from loraglm_helpers import __version__
from loraglm_helpers.config import (
    CHOICES,
    PRESETS,
    ROOT,
    ConfigError,
    FineTuneConfig,
    preset,
    repo_path,
)
from loraglm_helpers.official_config import ROPE_CHOICES
from loraglm_helpers.sequences import Layout


def test_defaults_are_the_recipes():
    config = FineTuneConfig()
    assert (config.use_lora, config.lora_rank, config.lora_alpha) == (True, 8, 32)
    assert (config.lora_dropout, config.learning_rate, config.warmup_ratio) == (0.1, 3e-5, 0.06)
    assert (config.max_source_seq_len, config.max_target_seq_len) == (400, 300)
    assert (config.use_ptuning, config.pre_seq_len) == (False, 128)
    assert (config.layout, config.target_modules) == ("glm", "query_key_value")
    assert preset("seed") == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_survives_json(name, tmp_path):
    config = preset(name)
    config.to_json(tmp_path / "deep" / "config.json")
    assert FineTuneConfig.from_json(tmp_path / "deep" / "config.json") == config
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["config.json"]


def test_presets_for_real_checkpoints_use_their_layout():
    assert preset("tiny").layout == "glm"
    assert preset("tiny").pre_model == "data/tiny-chatglm2"
    assert preset("chatglm2-6b").layout == "chatglm2"
    assert preset("chatglm3-6b").layout == "chatglm3"
    assert preset("glm-4-9b").layout == "chat_template"
    with pytest.raises(ConfigError, match="preset 'big': allowed: seed, tiny, chatglm2-6b"):
        preset("big")


def test_choices_are_those_of_the_modules_that_use_them():
    assert CHOICES["layout"] == tuple(Layout)
    assert CHOICES["rope"] == ROPE_CHOICES


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("use_lora=False", "use_lora", False),
        ("use_lora=no", "use_lora", False),
        ("padding_free=0", "padding_free", False),
        ("gradient_checkpointing=TRUE", "gradient_checkpointing", True),
        ("lora_rank=16", "lora_rank", 16),
        ("learning_rate=1e-4", "learning_rate", 1e-4),
        ("epochs=3", "epochs", 3.0),
        ("max_steps=20", "max_steps", 20),
        ("max_steps=none", "max_steps", None),
        ("token_cache=build/tokens", "token_cache", "build/tokens"),
        ("token_cache=none", "token_cache", None),
        ("max_seconds=1.5", "max_seconds", 1.5),
        ("target_modules=attention", "target_modules", "attention"),
        ("target_modules=q_proj, v_proj", "target_modules", ["q_proj", "v_proj"]),
        ('target_modules=["q_proj"]', "target_modules", ["q_proj"]),
        ("train_path=a=b.jsonl", "train_path", "a=b.jsonl"),
    ],
)
def test_settings_are_read_by_their_type(setting, name, value):
    found = getattr(FineTuneConfig().with_settings([setting]), name)
    assert found == value and type(found) is type(value)


def test_a_run_without_dev_rows_can_be_asked_for():
    assert FineTuneConfig().with_settings(["dev_path=none"]).dev_path is None


def test_several_settings_are_checked_together():
    config = FineTuneConfig().with_settings(["use_ptuning=true", "use_lora=false"])
    assert (config.use_ptuning, config.use_lora) == (True, False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("use_lora=maybe", "use_lora=maybe: allowed: true or false"),
        ("lora_rank=8.5", "lora_rank=8.5: allowed: a whole number"),
        ("lora_rank=0", "lora_rank is 0; allowed: above 0"),
        ("max_steps=soon", "max_steps=soon: allowed: a whole number or none"),
        ("epochs=nan", "epochs is nan; allowed: a number"),
        ("lora_dropout=1", "lora_dropout is 1.0; allowed: 0 up to below 1"),
        ("seed=-1", "seed is -1; allowed: 0 or above"),
        ("seed=16777216", "seed is 16777216; allowed: 0 to 16777215"),
        ("layout=chatglm", "layout is 'chatglm'; allowed: glm, chatglm2, chatglm3, chat_template"),
        ("train_path=", "train_path is empty"),
        ("target_modules=[1]", "target_modules is .1.; allowed: text or a list of texts"),
        ("target_modules=[q_proj]", "target_modules=.q_proj.: not a JSON list"),
        ("lora_rnak=8", "'lora_rnak' is no setting; did you mean lora_rank"),
        ("lora_rank", "setting 'lora_rank': key=value wanted"),
        ("use_ptuning=true", "use_lora and use_ptuning are both true"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(setting, message):
    with pytest.raises(ConfigError, match=message):
        FineTuneConfig().with_settings([setting])


def test_values_from_python_are_checked_too():
    with pytest.raises(ConfigError, match="use_lora is 'False'; allowed: true or false"):
        FineTuneConfig(use_lora="False")
    with pytest.raises(ConfigError, match="lora_rank is True; allowed: a whole number"):
        FineTuneConfig(lora_rank=True)
    with pytest.raises(ConfigError, match="gradient_checkpointing is true with use_ptuning"):
        FineTuneConfig(use_lora=False, use_ptuning=True, gradient_checkpointing=True)
    with pytest.raises(ConfigError, match="quantization is '4bit' without use_lora"):
        FineTuneConfig(use_lora=False, quantization="4bit")
    with pytest.raises(ConfigError, match="'rank' is no setting"):
        FineTuneConfig().replace(rank=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        FineTuneConfig().lora_rank = 3


def test_paths_may_be_path_objects(tmp_path):
    assert FineTuneConfig(save_dir=tmp_path).save_dir == str(tmp_path)
    assert FineTuneConfig(token_cache=tmp_path).token_cache == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "c.json: not JSON"),
        ("[]", "c.json: a JSON object of settings wanted"),
        ('{"lora_rank": "8"}', "c.json: lora_rank is '8'; allowed: a whole number"),
        ('{"ranks": 8}', "c.json: 'ranks' is no setting"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        FineTuneConfig.from_json(tmp_path / "c.json")


def test_json_may_hold_some_settings_only(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"lora_rank": 4}))
    assert FineTuneConfig.from_json(tmp_path / "c.json") == FineTuneConfig(lora_rank=4)
    with pytest.raises(ConfigError, match="none.json: cannot be read"):
        FineTuneConfig.from_json(tmp_path / "none.json")


def test_paths_are_found_from_the_notebooks_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert repo_path("pyproject.toml") == ROOT / "pyproject.toml"
    (tmp_path / "pyproject.toml").touch()
    assert repo_path("pyproject.toml") == tmp_path / "pyproject.toml"
    assert repo_path("zai-org/chatglm2-6b") == "zai-org/chatglm2-6b"


def test_version_is_the_packages(root):
    assert f'version = "{__version__}"' in (root / "pyproject.toml").read_text()
