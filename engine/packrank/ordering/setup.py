"""A model that judges several documents at a time, as it is opened: folder, tokenizer, device."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from packrank.arguments import checked_count
from packrank.checkpoint.config import ModelConfig, load_config
from packrank.checkpoint.hub import HubOptions, resolve
from packrank.checkpoint.kind import Kind, expect
from packrank.checkpoint.modules import encoder_folder
from packrank.errors import InputError
from packrank.models import CausalModel, CausalSettings, T5Settings, load_model
from packrank.runtime.device import Devices, choose_devices
from packrank.runtime.fleet import Fleet, Recipe, run_on
from packrank.runtime.generation import Generator
from packrank.runtime.runner import Runner
from packrank.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Setup:
    """What ways to order documents are made of.

    Attributes:
        name: what the user calls the model.
        folder: of the model.
        kind: what that holds.
        config: of the model; likewise tokenizer.
        tokenizer: its own.
        devices: where it runs.
        dtype: see `load_model`; likewise deterministic.
        deterministic: see there.
        budget_tokens: most tokens of a pack; None: the device's default.
    """

    name: str
    folder: Path
    kind: Kind
    config: ModelConfig
    tokenizer: Tokenizer
    devices: list[torch.device]
    dtype: torch.dtype | None
    deterministic: bool
    budget_tokens: int | None

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str],
        wanted: tuple[Kind, ...],
        device: Devices,
        dtype: str | torch.dtype,
        *,
        deterministic: bool,
        budget_tokens: int | None,
        hub: HubOptions,
    ) -> "Setup":
        """Of a folder or a name on the hub.

        Args:
            model: see `Reranker`; likewise the others but `wanted` and `hub`.
            wanted: kinds of folders that can be used.
            device: see there; likewise dtype.
            dtype: see there.
            deterministic: see there.
            budget_tokens: see there.
            hub: how the hub is asked.

        Raises:
            ModelError: the folder or name cannot be used.
            InputError: an option cannot.
        """
        devices, chosen = choose_devices(device, dtype)
        folder = resolve(model, hub)
        kind = expect(folder, wanted)
        inner = encoder_folder(folder)
        return cls(
            name=os.fspath(model),
            folder=inner,
            kind=kind,
            config=load_config(inner),
            tokenizer=Tokenizer.from_folder(inner),
            devices=devices,
            dtype=chosen,
            deterministic=deterministic,
            budget_tokens=checked_count("budget_tokens", budget_tokens),
        )

    @property
    def device(self) -> torch.device:
        """The one device.

        Raises:
            InputError: there are several.
        """
        if len(self.devices) > 1:
            raise InputError(f"{self.name} is ranked with on one device; name one")
        return self.devices[0]

    def labelled(self, settings: CausalSettings | T5Settings) -> Runner | Fleet:
        """The model under logits of labels, on all its devices."""
        recipe = Recipe(self.folder, self.dtype, self.deterministic, self.budget_tokens, settings)
        return run_on(self.devices, recipe)

    def generator(self) -> Generator:
        """The model, writing, on its device."""
        model = load_model(
            self.folder,
            device=self.device,
            dtype=self.dtype,
            deterministic=self.deterministic,
            causal=CausalSettings(head="vocabulary"),
        )
        assert isinstance(model, CausalModel)
        return Generator(model, budget_tokens=self.budget_tokens)

    def encoder(self) -> Runner:
        """The model without a head of scores, on its device."""
        model = load_model(
            self.folder,
            device=self.device,
            dtype=self.dtype,
            head=False,
            deterministic=self.deterministic,
        )
        return Runner(model, self.budget_tokens)
