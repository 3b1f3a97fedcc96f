"""The peers: transformers.Trainer with PEFT, and the recipe that this project began from.

trainer   dynamic padding, batches grouped by length, fused AdamW, bf16 on a GPU
seed      every row padded to 400 + 300, activations recomputed, full logits
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from typing import Any

import peft
import torch
import transformers
from contenders import Timing, synchronize, timing
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from workload import SOURCE, TARGET, Workload

from loraglm_helpers.sequences import IGNORED, Example

MODULES = ["q_proj", "k_proj", "v_proj"]


def train_trainer(work: Workload) -> Timing:
    """transformers.Trainer, set as fast as its own options allow; warmed up by a run of a step."""
    model = peft.get_peft_model(work.model(), lora_settings(work))
    examples, clock = work.examples(), Clock(work.device)
    with tempfile.TemporaryDirectory() as directory:
        for steps in (1, -1):
            trainer = transformers.Trainer(
                model,
                trainer_settings(work, directory, steps),
                data_collator=transformers.DataCollatorForSeq2Seq(padding_tokenizer()),
                train_dataset=[asdict(e) for e in examples],
                callbacks=[clock],
            )
            trainer.remove_callback(transformers.PrinterCallback)
            loss = trainer.train().training_loss
    return timing(examples, clock.end - clock.begin, [loss])


class Clock(transformers.TrainerCallback):
    """When a Trainer's run began and ended."""

    def __init__(self, device: str) -> None:
        self.device, self.begin, self.end = device, 0.0, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Before the first batch."""
        synchronize(self.device)
        self.begin = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """After the last step."""
        synchronize(self.device)
        self.end = time.perf_counter()


def trainer_settings(work: Workload, directory: str, steps: int) -> Any:
    """TrainingArguments: nothing saved, nothing reported, batches grouped by length."""
    return transformers.TrainingArguments(
        output_dir=directory,
        num_train_epochs=1,
        max_steps=steps,
        per_device_train_batch_size=work.batch_size,
        learning_rate=work.learning_rate,
        lr_scheduler_type="linear",
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        optim="adamw_torch_fused",
        use_cpu=work.device == "cpu",
        bf16=work.precision == "bf16",
        dataloader_pin_memory=work.device != "cpu",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )


def padding_tokenizer() -> Any:
    """A tokenizer that only pads: id 0, on the right."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<unk>": 0}, "<unk>")),
        pad_token="<unk>",
        padding_side="right",
    )


def lora_settings(work: Workload) -> peft.LoraConfig:
    """The seed's adapter; PEFT has no default layers for a native GLM, so they are named."""
    return peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=work.rank,
        lora_alpha=work.alpha,
        lora_dropout=work.dropout,
        target_modules=MODULES,
    )


def train_seed(work: Workload) -> Timing:
    """The original recipe on the native class.

    Mended where it would not run: layers named, training mode on, the head's output made float32
    by a hook (a wrapper would rename its weight in what is saved), half precision on GPUs only.
    """
    base, examples = work.model(), work.examples()
    base.gradient_checkpointing_enable()
    base.enable_input_require_grads()
    base.config.use_cache = False
    base = base if work.device == "cpu" else base.half()
    model = peft.get_peft_model(base, lora_settings(work)).train()
    base.lm_head.register_forward_hook(lambda module, inputs, output: output.float())
    optimizer = torch.optim.AdamW(seed_groups(model), lr=work.learning_rate)
    loader = torch.utils.data.DataLoader(
        [padded_to_700(e) for e in examples],
        batch_size=work.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, round(0.06 * len(loader)), len(loader) + 1
    )

    def step(batch: dict[str, torch.Tensor]) -> float:
        with torch.autocast(work.device, torch.float16, enabled=work.device != "cpu"):
            inputs = {name: ids.to(work.device) for name, ids in batch.items()}
            loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    step(next(iter(loader)))
    synchronize(work.device)
    began = time.perf_counter()
    losses = [step(batch) for batch in loader]
    synchronize(work.device)
    return timing(examples, time.perf_counter() - began, losses)


def seed_groups(model: Any) -> list[dict[str, Any]]:
    """The recipe's two groups: no decay for names with "bias" or "LayerNorm.weight"."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    free = [any(part in name for part in ("bias", "LayerNorm.weight")) for name, _ in named]
    return [
        {"params": [p for (_, p), f in zip(named, free, strict=True) if not f]},
        {"params": [p for (_, p), f in zip(named, free, strict=True) if f], "weight_decay": 0.0},
    ]


def padded_to_700(example: Example) -> dict[str, torch.Tensor]:
    """Ids and labels of one row, 0 and -100 behind them up to 400 + 300."""
    pad = SOURCE + TARGET - len(example.input_ids)
    return {
        "input_ids": torch.tensor(example.input_ids + [0] * pad),
        "labels": torch.tensor(example.labels + [IGNORED] * pad),
    }
