"""The curriculum: what there is to learn, in order. `minigen list`, `train`, `sample` and `tour` follow this list."""

import importlib
import importlib.util
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from minigen.errors import UserError, in_words


@dataclass(frozen=True)
class Entry:
    """One line of the curriculum. ``name`` is what the command line calls it, ``module`` where Python finds it.

    ``kind`` is "system" for a model that can be trained, "engine", "sampler" or "part" for what the models build on.
    ``draws`` is False for a system whose samples are pictures that it found, not pictures that it made; ``edits`` says
    whether it changes pictures, and ``used`` by which command a sampler is used.
    """

    chapter: int
    name: str
    title: str
    paper: str
    module: str
    kind: str = "system"
    draws: bool = True
    edits: bool = False
    used: str = ""

    @property
    def exists(self) -> bool:
        """Whether its file is there. Nothing is imported but the folders around it."""
        try:
            return importlib.util.find_spec(self.module) is not None
        except ModuleNotFoundError:
            return False

    @property
    def file(self) -> str:
        """The path of its file or folder from the root of the project."""
        stem = self.module.replace(".", "/")
        return stem if self.module.count(".") == 0 else f"{stem}.py"


CHOSEN = "sample --sampler"

CURRICULUM = [
    Entry(
        1, "autograd", "Engine: what a gradient is", "Linnainmaa 1970; Griewank & Walther 2008", "autograd", "engine"
    ),
    Entry(
        1,
        "kernels",
        "Engine: convolution, attention, quantization",
        "Winograd 1980; Lavin & Gray 1509.09308",
        "kernels",
        "engine",
    ),
    Entry(2, "autoencoder", "Autoencoder", "Hinton & Salakhutdinov 2006", "minigen.models.autoencoder"),
    Entry(2, "denoising_ae", "Denoising autoencoder", "Vincent et al. 2008", "minigen.models.denoising_ae"),
    Entry(2, "masked_ae", "Masked autoencoder", "He et al. 2111.06377", "minigen.models.masked_ae"),
    Entry(3, "gan", "Generative adversarial network", "Goodfellow et al. 1406.2661", "minigen.models.gan"),
    Entry(4, "vae", "Variational autoencoder", "Kingma & Welling 1312.6114", "minigen.models.vae"),
    Entry(5, "vq_vae", "Vector-quantised VAE", "van den Oord et al. 1711.00937", "minigen.models.vq_vae"),
    Entry(5, "vq_vae_prior", "Its prior", "van den Oord et al. 1711.00937", "minigen.models.vq_vae_prior", "part"),
    Entry(6, "pixelcnn", "PixelCNN", "van den Oord et al. 1606.05328", "minigen.models.pixelcnn"),
    Entry(7, "gpt", "GPT on pixels and text", "Radford et al. 2019; Vaswani et al. 1706.03762", "minigen.models.gpt"),
    Entry(
        7,
        "autoregressive",
        "Autoregressive sampling",
        "Fan et al. 1805.04833; Holtzman et al. 1904.09751",
        "minigen.samplers.autoregressive",
        "sampler",
        used="sample",
    ),
    Entry(8, "clip", "CLIP", "Radford et al. 2103.00020", "minigen.models.clip", draws=False),
    Entry(
        9,
        "dvae",
        "DALL-E's discrete VAE",
        "Ramesh et al. 2102.12092; Jang et al. 1611.01144",
        "minigen.models.dvae",
        "part",
    ),
    Entry(9, "dalle", "DALL-E", "Ramesh et al. 2102.12092", "minigen.models.dalle"),
    Entry(10, "ddpm", "Denoising diffusion", "Ho et al. 2006.11239", "minigen.models.ddpm", edits=True),
    Entry(
        10,
        "ancestral",
        "Ancestral sampling",
        "Ho et al. 2006.11239",
        "minigen.samplers.ancestral",
        "sampler",
        used=CHOSEN,
    ),
    Entry(11, "ddim", "DDIM", "Song et al. 2010.02502", "minigen.samplers.ddim", "sampler", used=CHOSEN),
    Entry(
        11, "plms", "Pseudo linear multistep", "Liu et al. 2202.09778", "minigen.samplers.plms", "sampler", used=CHOSEN
    ),
    Entry(
        11, "dpm_solver", "DPM-Solver++", "Lu et al. 2211.01095", "minigen.samplers.dpm_solver", "sampler", used=CHOSEN
    ),
    Entry(
        11,
        "euler",
        "Euler and Heun in sigma",
        "Karras et al. 2206.00364",
        "minigen.samplers.euler",
        "sampler",
        used=CHOSEN,
    ),
    Entry(
        11,
        "probability_flow",
        "Probability flow, likelihood",
        "Song et al. 2011.13456",
        "minigen.samplers.probability_flow",
        "sampler",
        used="sample --quality",
    ),
    Entry(
        11,
        "inpaint",
        "RePaint and SDEdit",
        "Lugmayr et al. 2201.09865; Meng et al. 2108.01073",
        "minigen.samplers.inpaint",
        "sampler",
        used="edit",
    ),
    Entry(
        12,
        "improved_ddpm",
        "Improved DDPM",
        "Nichol & Dhariwal 2102.09672",
        "minigen.models.improved_ddpm",
        edits=True,
    ),
    Entry(13, "adm", "ADM with classifier guidance", "Dhariwal & Nichol 2105.05233", "minigen.models.adm"),
    Entry(
        14,
        "guidance",
        "The four guidances",
        "Liu et al. 2112.05744; Ho et al. 2204.03458",
        "minigen.samplers.guidance",
        "sampler",
        used="sample --guidance",
    ),
    Entry(
        15, "classifier_free", "Classifier-free guidance", "Ho & Salimans 2207.12598", "minigen.models.classifier_free"
    ),
    Entry(
        15,
        "free_guidance",
        "Its guidance",
        "Ho & Salimans 2207.12598",
        "minigen.samplers.classifier_free",
        "sampler",
        used="sample --scale",
    ),
    Entry(16, "glide", "GLIDE", "Nichol et al. 2112.10741", "minigen.models.glide", edits=True),
    Entry(
        16,
        "glide_upsampler",
        "GLIDE's up-sampler",
        "Nichol et al. 2112.10741; Ho et al. 2106.15282",
        "minigen.models.glide_upsampler",
        "part",
    ),
    Entry(
        16,
        "glide_edits",
        "Its edits, and their measure",
        "Nichol et al. 2112.10741",
        "minigen.models.glide_edits",
        "part",
    ),
    Entry(17, "diffusionclip", "DiffusionCLIP", "Kim et al. 2110.02711", "minigen.models.diffusionclip", edits=True),
    Entry(
        17, "diffusionclip_losses", "Its losses", "Kim et al. 2110.02711", "minigen.models.diffusionclip_losses", "part"
    ),
    Entry(18, "dalle2", "DALL-E 2 (unCLIP)", "Ramesh et al. 2204.06125", "minigen.models.dalle2", edits=True),
    Entry(18, "dalle2_prior", "Its diffusion prior", "Ramesh et al. 2204.06125", "minigen.models.dalle2_prior", "part"),
    Entry(
        18,
        "dalle2_ar_prior",
        "Its autoregressive prior",
        "Ramesh et al. 2204.06125",
        "minigen.models.dalle2_ar_prior",
        "part",
    ),
    Entry(18, "dalle2_decoder", "Its decoder", "Ramesh et al. 2204.06125", "minigen.models.dalle2_decoder", "part"),
    Entry(
        18,
        "dalle2_upsampler",
        "Its up-samplers",
        "Ramesh et al. 2204.06125; Saharia et al. 2104.07636",
        "minigen.models.dalle2_upsampler",
        "part",
    ),
    Entry(18, "dalle2_stages", "Its training", "Ramesh et al. 2204.06125", "minigen.models.dalle2_stages", "part"),
    Entry(18, "dalle2_edits", "Its edits", "Ramesh et al. 2204.06125", "minigen.models.dalle2_edits", "part"),
    Entry(
        19,
        "stable_diffusion",
        "Stable Diffusion",
        "Rombach et al. 2112.10752",
        "minigen.models.stable_diffusion",
        edits=True,
    ),
    Entry(
        19,
        "latent_codec",
        "Its codec",
        "Esser et al. 2012.09841; Rombach et al. 2112.10752",
        "minigen.models.latent_codec",
        "part",
    ),
    Entry(
        19,
        "latent_beside",
        "Its masks and layouts",
        "Rombach et al. 2112.10752",
        "minigen.models.latent_beside",
        "part",
    ),
    Entry(
        19, "latent_upscaler", "Its up-scaler", "Rombach et al. 2112.10752", "minigen.models.latent_upscaler", "part"
    ),
    Entry(
        19,
        "latent_edits",
        "Its edits",
        "Rombach et al. 2112.10752; Meng et al. 2108.01073",
        "minigen.models.latent_edits",
        "part",
    ),
]


REQUIRED = ("TITLE", "PAPER", "EQUATION", "Config", "build")  # of a model file
SETTINGS = ("Config", "Sampling", "Editing")  # its dataclasses, of which it may lack the last two


def systems() -> dict[str, Entry]:
    """The models by name, in order, whether their file is there yet or not."""
    return {entry.name: entry for entry in CURRICULUM if entry.kind == "system"}


def find(name: str) -> Entry:
    """The model called ``name`` (a hyphen counts as an underscore), whose file is there.

    Raises UserError for an unknown name, with the nearest known one, for a sampler or a part of a system, for a system
    that is still to come, and for a model file that has no line here.
    """
    known = systems()
    plain = name.replace("-", "_")
    entry = known.get(plain)
    runs = [e.name for e in known.values() if e.exists]
    part = next((e for e in CURRICULUM if e.name == plain and e.kind != "system"), None)
    if part is not None:
        use = f", which 'minigen {part.used}' uses" if part.used else ""
        raise UserError(f"'{name}' is no system but {part.file}{use}: the systems that run today are {', '.join(runs)}")
    if entry is None:
        file = Entry(0, plain, "", "", f"minigen.models.{plain}")
        if plain.isidentifier() and file.exists and file.module not in {e.module for e in CURRICULUM}:
            raise UserError(
                f"unknown system '{name}': {file.file} is there, but has no line in minigen/cli/curriculum.py"
            )
        if name.endswith(".py") or Path(f"{name}.py") in Path().glob("*.py"):
            raise UserError(
                f"unknown system '{name}': a model file that is not in minigen/models is trained from Python, as the "
                "README says under 'As a library'"
            )
        near = get_close_matches(plain.lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"unknown system '{name}': {hint}these run today: {', '.join(runs) or 'none yet'}")
    if not entry.exists:
        raise UserError(f"'{entry.name}' is planned, {entry.file} is not there yet: these run today: {', '.join(runs)}")
    return entry


def load(entry: Entry) -> Any:
    """The module of an entry.

    Raises UserError for a file that cannot be parsed, and for a model's that `check` refuses.
    """
    module = imported(entry.module)
    if entry.kind == "system":
        check(module, entry.file)
    return module


def check(model: Any, file: str) -> None:
    """Raise UserError for a model file that lacks one of the names in ``REQUIRED``, whose ``SETTINGS`` are no dataclasses
    with a default for every field, or whose ``TOUR`` or ``PRESETS`` change what `Config` does not have.
    """
    lacking = [name for name in REQUIRED if not hasattr(model, name)]
    if lacking:
        raise UserError(f"{file} must have {', '.join(REQUIRED)}: it lacks {', '.join(lacking)}")
    for name in SETTINGS:
        kind = getattr(model, name, None)
        if kind is not None and not (isinstance(kind, type) and is_dataclass(kind)):
            raise UserError(f"{name} of {file} must be a dataclass")
        bare = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING] if kind is not None else []
        if bare:
            raise UserError(f"every field of {name} of {file} must have a default: {', '.join(bare)} has none")
    known = {field.name for field in fields(model.Config)}
    presets = {f"PRESETS, {name},": changes for name, changes in getattr(model, "PRESETS", {}).items()}
    for what, changes in ({"TOUR": getattr(model, "TOUR", {})} | presets).items():
        for name in changes:
            if name not in known:
                raise UserError(f"{what} of {file} changes '{name}', which is no field of its Config")


def imported(module: str) -> Any:
    """A module by its name, whatever is in it. UserError for a file that Python cannot parse."""
    try:
        return importlib.import_module(module)
    except (SyntaxError, MemoryError, RecursionError) as error:  # the last two: of thousands of nested brackets
        raise UserError(f"cannot import '{module}': {in_words(error)}") from error


def source_file(module: Any) -> Path:
    """Where a module's code is on this machine."""
    return Path(module.__file__)
