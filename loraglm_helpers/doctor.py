"""Whether this machine can run the series: one line a check, what is wrong and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from .config import repo_path
from .environment import Environment, inspect_environment
from .known_bad import INSTALL, KNOWN_BAD

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
PYTHON = "3.11"
MINIATURE = "data/tiny-chatglm2"
NEEDED_MEMORY, NEEDED_DISK = 2e9, 1e9  # bytes: the miniature with Jupyter; adapters and a merge


@dataclass(frozen=True)
class Check:
    """A result: ``status`` is ok, warn (slower, or a choice less) or fail (it will not run)."""

    name: str
    status: str
    line: str

    def __str__(self) -> str:
        return f"{MARKS[self.status]}  {self.name:<15} {self.line}"


@dataclass(frozen=True)
class Report:
    """All checks."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing fails; warnings are allowed."""
        return not self.named("fail")

    @property
    def exit_code(self) -> int:
        """0 when ok, else 1."""
        return 0 if self.ok else 1

    def named(self, status: str) -> list[Check]:
        """The checks with this status."""
        return [found for found in self.checks if found.status == status]

    def __str__(self) -> str:
        warnings, failures = len(self.named("warn")), len(self.named("fail"))
        verdict = f"{'Ready' if self.ok else 'Not ready'}: warn {warnings}, FAIL {failures}."
        return "\n".join([*map(str, self.checks), "", verdict])


def check(model: str | Path | None = None, environment: Environment | None = None) -> Report:
    """Look at versions, devices, memory, cores and known-bad combinations; and at a checkpoint.

    ``model`` is a folder with a GLM (default: the miniature); nothing is downloaded or loaded.
    """
    env = environment or inspect_environment()
    checks = [_python(env), *_packages(env), *_devices(env), *_sizes(env), _font(env)]
    checks += [*_known_bad(env), _checkpoint(model or MINIATURE, env)]
    return Report(tuple(checks))


def _python(env: Environment) -> Check:
    good = Version(env.python) >= Version(PYTHON)
    fix = "" if good else f"; Python {PYTHON} or newer is needed"
    return Check("python", "ok" if good else "fail", f"{env.python} on {env.system}{fix}")


def _packages(env: Environment) -> Iterator[Check]:
    """One line for all that fits, one for each package that does not."""
    if not env.requirements:
        yield Check("packages", "warn", f"the list of what is needed is not installed: {INSTALL}")
    fitting = []
    for wanted in map(Requirement, env.requirements):
        found = env.versions.get(wanted.name)
        if found is not None and wanted.specifier.contains(found, prereleases=True):
            fitting.append(f"{wanted.name} {found}")
        else:
            has = f"{found} is installed" if found else "not installed"
            wish = f"{wanted.name}{wanted.specifier} is needed"
            yield Check(wanted.name, "fail", f"{has}, {wish}: {INSTALL}")
    if fitting:
        rest = f" and {len(fitting) - 4} more" if len(fitting) > 4 else ""
        yield Check("packages", "ok", ", ".join(fitting[:4]) + rest)


def _devices(env: Environment) -> Iterator[Check]:
    for number, gpu in enumerate(env.gpus):
        format_ = "bf16" if gpu.bf16 else "fp16"
        sizes = f"{gpu.free / 1e9:.0f} of {gpu.memory / 1e9:.0f} GB free"
        yield Check(
            f"cuda:{number}", "ok", f"{gpu.name}, {sizes}, {format_}, CUDA {env.cuda_build}"
        )
    if env.mps:
        yield Check("mps", "ok", "Apple GPU, float32")
    if not env.gpus and not env.mps:
        format_ = "bf16" if env.cpu_bf16 else "float32"
        yield Check("device", "ok", f"CPU, {format_}: enough for the miniature, not for 6B models")


def _sizes(env: Environment) -> Iterator[Check]:
    line = f"{env.cores} cores, torch uses {env.threads}"
    idle = env.threads < env.cores // 2
    hint = "; OMP_NUM_THREADS or torch.set_num_threads holds it back" if idle else ""
    yield Check("cores", "warn" if idle else "ok", line + hint)
    for name, free, needed in (
        ("memory", env.free_memory, NEEDED_MEMORY),
        ("disk", env.free_disk, NEEDED_DISK),
    ):
        if free:
            short = free < needed
            hint = f"; the series wants {needed / 1e9:.0f} GB" if short else ""
            line = f"{free / 1e9:.1f} GB free{hint}"
            yield Check(name, "warn" if short else "ok", line)


def _font(env: Environment) -> Check:
    if env.cjk_font:
        return Check("Chinese font", "ok", env.cjk_font)
    hint = "none found, plots show token ids instead; install Noto Sans CJK to see characters"
    return Check("Chinese font", "warn", hint)


def _known_bad(env: Environment) -> Iterator[Check]:
    clean = True
    for bad in KNOWN_BAD:
        if seen := bad.seen(env):
            clean = False
            line = f"{seen}: {bad.effect} ({bad.thread}). Fix: {bad.fix}"
            yield Check(bad.name, "fail" if bad.grave else "warn", line)
    if clean:
        yield Check("combinations", "ok", f"none of the {len(KNOWN_BAD)} known-bad ones")


def _checkpoint(model: str | Path, env: Environment) -> Check:
    """Whether a folder's model can be read by this package, and fits into memory."""
    from .ledger import GlmShape
    from .official_config import CheckpointError, is_official, native_config
    from .weight_files import read_json

    folder = Path(repo_path(model))
    if not folder.is_dir():
        return Check("checkpoint", "warn", f"{model}: no such folder here")
    try:
        config = read_json(folder / "config.json")
        if not is_official(config):
            return Check(
                "checkpoint", "ok", f"{model}: native, model_type {config.get('model_type')}"
            )
        count = GlmShape.of(native_config(config, name=folder.name)).parameters()
    except CheckpointError as error:
        return Check("checkpoint", "fail", f"{model}: {error}")
    width = 2 if env.gpus else 4
    room = max((gpu.free for gpu in env.gpus), default=env.free_memory)
    short = bool(room) and count * width > room
    line = f"{model}: ChatGLM layout, {count:,} weights, {count * width / 1e6:,.1f} MB in memory"
    hint = (
        f", but {room / 1e9:.1f} GB are free: a larger GPU, or quantization=4bit" if short else ""
    )
    return Check("checkpoint", "warn" if short else "ok", line + hint)
