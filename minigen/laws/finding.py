"""What a finding is: a law that somebody else's sampler breaks; `known` lists them, `findings` measures them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .adapters_diffusers import Diffusers
from .adapters_kdiffusion import KDiffusion
from .shrink import CHAIN


@dataclass(frozen=True)
class Finding:
    """A law broken by somebody's sampler."""

    title: str
    words: str
    sampler: str
    settings: dict[str, Any]
    law: str
    numbers: Iterable[int]
    also: tuple[str, ...] = ()  # other classes with the same settings, tried with the same numbers
    known: str = ""
    new: bool = False  # not in the first list of what these laws found
    dtype: str = "float32"  # of the states
    peer: str = "diffusers"
    minimal: dict[str, Any] = field(default_factory=dict)  # settings that stay while shrinking; a chain's length, too

    def make(self, **settings: Any) -> Any:
        """The sampler with settings."""
        made = {**self.minimal, **settings}
        if self.peer != "diffusers":
            return KDiffusion(self.sampler, **made)
        sampler = Diffusers(self.sampler, **made)
        sampler.chain = sampler.chain and CHAIN not in self.minimal
        return sampler
