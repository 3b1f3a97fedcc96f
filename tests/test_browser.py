"""The playground in a real browser: JupyterLab, a kernel, Chromium, a click, an answer.

Runs where Playwright (``pip install -e ".[browser]"``) and a Chromium are installed, never in
continuous integration. The picture that it takes is kept in pytest's folder for this test.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
import torch
from tiny_tokenizer import train_tokenizer
from transformers import GlmConfig, GlmForCausalLM

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason='no Playwright: pip install -e ".[browser]"'
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CELLS = [
    """\
import torch
from transformers import GlmForCausalLM
from loraglm_helpers.playground import Playground
from loraglm_helpers.tokenizer import load_tokenizer
torch.set_num_threads(1)
model = GlmForCausalLM.from_pretrained("model").eval()""",
    """\
playground = Playground(model, load_tokenizer("model"))
playground.max_new_tokens.value = 200
playground.display()""",
]
PATIENCE = 60_000  # milliseconds; the whole test took 60 to 70 s on two busy cores
NO_NEWS = "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"

pytestmark = [
    pytest.mark.skipif("CI" in os.environ, reason="no browser in continuous integration"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A notebook, a tiny random model with its tokenizer, and JupyterLab's own folders."""
    tokenizer = train_tokenizer(tmp_path / "model")
    torch.manual_seed(3)
    config = GlmConfig(
        vocab_size=509,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        initializer_range=0.4,
    )
    GlmForCausalLM(config).save_pretrained(tokenizer.parent)
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, tmp_path / "panel.ipynb")
    return tmp_path


@contextmanager
def jupyter_lab(folder: Path):
    """JupyterLab on a free port of this machine, with none of the reader's settings; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    own = {name: str(folder / name.lower()) for name in names}
    settings = Path(own["JUPYTER_CONFIG_DIR"]) / NO_NEWS
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    options += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    options += ["--IdentityProvider.token=", "--LabApp.extension_manager=readonly"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api/status", server, folder / "lab.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


def _wait_for(url: str, server: subprocess.Popen, log: Path, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@contextmanager
def page_at(url: str):
    """The page in Chromium, once its notebook has a kernel."""
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        yield page
        browser.close()


def run_all_cells(page) -> None:
    page.click('.lm-MenuBar-itemLabel:text-is("Run")')
    page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')


def lengths_until_done(page) -> list[int]:
    """How long the answer was each time that one looked, while the button was disabled."""
    text = page.locator(".playground-answer .widget-html-content")
    lengths, end = [], time.monotonic() + PATIENCE / 1000
    page.locator(".playground-run:disabled").wait_for()
    while page.locator(".playground-run").is_disabled():
        assert time.monotonic() < end, "the answer does not end"
        lengths.append(len(text.inner_text()))
        page.wait_for_timeout(20)
    return lengths


def test_a_click_in_jupyterlab_streams_one_answer_into_the_panel(folder):
    with jupyter_lab(folder) as lab, page_at(f"{lab}/doc/tree/panel.ipynb?reset") as page:
        run_all_cells(page)
        page.locator(".playground-run").dblclick()
        lengths = lengths_until_done(page)
        page.screenshot(path=folder / "panel.png")
        assert lengths == sorted(lengths) and len(set(lengths)) > 3, "the answer did not grow"
        assert re.fullmatch(r"\d+\.\d s, greedy", page.locator(".playground-status").inner_text())
        assert page.locator(".playground-earlier").inner_text().strip() == "", "asked twice"
        assert page.get_by_label("instruction").input_value().startswith("抽取文本")
