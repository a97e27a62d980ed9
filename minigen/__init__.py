"""minigen: the generative models from the GAN to Stable Diffusion, small enough to read.

Nothing is re-exported here: an import names its file (``from minigen.models.ddpm import l_simple``). `load` turns a
weights file back into what was trained.
"""

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def _refuse_strangers() -> None:
    """Two other projects are called ``autograd`` and ``kernels``: make sure that Python found ours."""
    for name in ("kernels", "autograd"):  # in this order: our autograd needs our kernels
        module = importlib.import_module(name)
        if getattr(module, "__part_of__", None) != "minigen":
            found = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ["?"])))
            raise ImportError(
                f"minigen needs its own package '{module.__name__}', but Python found another one at {found}: install "
                f"minigen in a fresh virtual environment, or run 'pip uninstall {module.__name__}' here"
            )


_refuse_strangers()


def load(weights: str | Path, *, model: Any = None, device: str = "cpu") -> Any:
    """The trained `System` (`models/system.py`) from a weights file that `minigen train` wrote.

    ``load("out/ddpm/weights.safetensors").sample(4, rng=np.random.default_rng(0))`` gives pictures (4, h, w, c) in [-1,
    1]; ``modules`` holds the networks. ``model`` is the module of a model file of your own. Raises errors.UserError,
    one sentence, for a file without such weights.
    """
    from minigen.cli import arguments, curriculum
    from minigen.errors import UserError
    from minigen.train import checkpoint

    path = Path(weights)
    with checkpoint.opened(path, kind="weights") as reader:
        name = str(reader.about.get("system"))
    if model is None and name not in curriculum.systems():
        raise UserError(f"{path} is of the system '{name}', which is not one of ours: give its model file, model=yours")
    file = getattr(model, "__name__", type(model).__name__)
    entry = curriculum.find(name) if model is None else curriculum.Entry(0, name, "", "", file)
    return arguments.load_weights(path, entry, device=device, model=model)[0]
