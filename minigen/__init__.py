"""minigen: every generative model from the GAN to Stable Diffusion, small enough to read.

Importing a module names its file (``from minigen.models.ddpm import l_simple``), so nothing is re-exported here.
"""

import importlib

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
