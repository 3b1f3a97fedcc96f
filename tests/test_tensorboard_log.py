"""What TensorBoard will show is what the history says; without TensorBoard the error helps."""

from __future__ import annotations

import sys

import pytest
from tiny_training import make_config, run, stop_at

from loraglm_helpers.__main__ import main
from loraglm_helpers.tensorboard_log import TAGS, TensorBoardLog, TensorBoardMissing

INSTALL = 'tensorboard is not installed: pip install -e ".[tensorboard]" -c constraints.txt'


@pytest.fixture
def config(tmp_path):
    return make_config(save_dir=str(tmp_path / "run"))


@pytest.fixture
def events():
    """A function from a folder to {tag: [(step, value), ...]}, and to the settings' text."""
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=INSTALL
    )

    def read(folder):
        found = reader.EventAccumulator(str(folder)).Reload()
        scalars = found.Tags()["scalars"]
        text = found.Tensors("settings/text_summary")[-1].tensor_proto.string_val[0].decode()
        return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in scalars}, text

    return read


def expected(history) -> dict[str, list[tuple[int, float]]]:
    return {
        tag: [(r["step"], pytest.approx(r[name])) for r in history.records if name in r]
        for name, tag in TAGS.items()
    }


def test_every_record_and_the_settings_are_written(config, events, tmp_path):
    history = run(config, callbacks=[TensorBoardLog(tmp_path / "board")])
    scalars, text = events(tmp_path / "board")
    assert scalars == expected(history)
    assert [step for step, _ in scalars["loss/train"]] == [2, 4, 6, 8]
    assert [step for step, _ in scalars["loss/dev"]] == [4, 8]
    assert "| lora_rank | `4` |" in text


def test_a_resumed_run_goes_on_in_the_same_curves(config, events, tmp_path):
    def die(event, state):
        if event == "step" and state.step == 7:
            raise SystemExit("as if by kill -9")

    with pytest.raises(SystemExit):  # after the record of step 6, which was not saved
        run(config, callbacks=[TensorBoardLog(tmp_path / "board"), die])
    assert [step for step, _ in events(tmp_path / "board")[0]["loss/train"]] == [2, 4, 6]
    history = run(config, callbacks=[TensorBoardLog(tmp_path / "board")], resume=True)
    assert events(tmp_path / "board")[0] == expected(history)


def test_a_run_that_starts_anew_hides_the_one_before(config, events, tmp_path):
    run(config, callbacks=[TensorBoardLog(tmp_path / "board")])
    history = run(config, callbacks=[TensorBoardLog(tmp_path / "board"), stop_at(3)])
    assert events(tmp_path / "board")[0] == expected(history)


def test_without_tensorboard_nothing_is_trained_and_the_error_says_what_to_do(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TensorBoardMissing, match=r"pip install -e .*tensorboard"):
        TensorBoardLog(tmp_path)
    save_dir = f"save_dir={tmp_path / 'run'}"
    assert main(["train", "--tensorboard", str(tmp_path / "board"), "--set", save_dir]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: curves for TensorBoard need the tensorboard package")
    assert error.count("\n") == 1 and list(tmp_path.iterdir()) == []
