import json
import warnings
from types import SimpleNamespace

import pytest
from transformers import GlmConfig, GlmForCausalLM

from loraglm_helpers.config import FineTuneConfig
from loraglm_helpers.guards import LayoutWarning, folder_layouts, layout_problem, own_layouts
from loraglm_helpers.sequences import Example
from loraglm_helpers.training import train

SMALL = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
TEMPLATED = SimpleNamespace(chat_template="{{ messages }}")


def official(vocabulary=65024, **more):
    return SimpleNamespace(chatglm={"padded_vocab_size": vocabulary, **more})


@pytest.mark.parametrize(
    ("config", "name", "layouts"),
    [
        (official(_name_or_path="THUDM/chatglm2-6b"), "", ("chatglm2",)),
        (official(_name_or_path="THUDM/chatglm2-6b-32k"), "models/mine", ("chatglm2",)),
        (official(_name_or_path="THUDM/chatglm3-6b"), "models/chatglm2", ("chatglm3",)),
        (official(_name_or_path="THUDM/chatglm3-6b-base"), "", ("chatglm2", "chatglm3")),
        (official(), "zai-org/chatglm3-6b", ("chatglm3",)),
        (official(), "zai-org/chatglm2-6b", ("chatglm2",)),
        (official(), "models/mine", ("chatglm2", "chatglm3")),
        (official(3264), "data/tiny-chatglm2", ()),
        (GlmConfig(**SMALL), "zai-org/glm-edge-1.5b", ()),
    ],
)
def test_own_layouts(config, name, layouts):
    assert own_layouts(config, None, name) == layouts


def test_a_chat_template_is_the_layout_of_the_newer_models():
    assert own_layouts(GlmConfig(**SMALL), TEMPLATED) == ("chat_template",)
    glm4 = official(151552, _name_or_path="THUDM/glm-4-9b-chat")
    assert own_layouts(glm4, TEMPLATED) == ("chat_template",)
    assert own_layouts(official(_name_or_path="THUDM/chatglm3-6b"), TEMPLATED) == ("chatglm3",)


def test_the_problem_names_the_layout_to_set():
    assert layout_problem("chatglm3", ("chatglm3",)) == ""
    assert layout_problem("glm", ("chatglm3",)) == (
        "layout is 'glm', but this checkpoint was trained for 'chatglm3': set layout='chatglm3', "
        "or it has to learn another order of special tokens first"
    )
    assert "'chatglm2' or 'chatglm3'" in layout_problem("glm", own_layouts(official()))


@pytest.mark.parametrize("layout", ["glm", "chatglm2", "chatglm3", "chat_template"])
def test_nothing_is_said_of_an_unknown_checkpoint(layout):
    assert layout_problem(layout, ()) == ""


def test_a_folder_tells_without_its_weights(tmp_path):
    content = {"model_type": "chatglm", "padded_vocab_size": 65024}
    for name, layouts in [
        ("chatglm3-6b", ("chatglm3",)),
        ("chatglm2-6b", ("chatglm2",)),
        ("mine", ("chatglm2", "chatglm3")),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        assert folder_layouts(tmp_path / name) == layouts
    edge = tmp_path / "glm-edge"
    edge.mkdir()
    (edge / "config.json").write_text(json.dumps({"model_type": "glm", "vocab_size": 59264}))
    assert folder_layouts(edge) == ()
    (edge / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    assert folder_layouts(edge) == ("chat_template",)
    (edge / "tokenizer_config.json").write_text("{}")
    (edge / "chat_template.jinja").write_text("x")
    assert folder_layouts(edge) == ("chat_template",)


def test_training_warns_once_and_goes_on(tmp_path):
    config = FineTuneConfig(max_steps=1, save_dir=str(tmp_path), device="cpu", layout="glm")
    row = Example([5, 6, 2], [-100, 6, 2])
    own = GlmConfig(**SMALL, chatglm={"_name_or_path": "THUDM/chatglm2-6b"})
    given = {"tokenizer": object(), "train_rows": [row], "dev_rows": [row]}
    with pytest.warns(LayoutWarning, match="set layout='chatglm2'"):
        train(config, model=GlmForCausalLM(own), **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LayoutWarning)
        train(config.replace(layout="chatglm2"), model=GlmForCausalLM(own), **given)
        train(config, model=GlmForCausalLM(GlmConfig(**SMALL)), **given)
