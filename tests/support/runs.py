"""What two runs left, compared: a checkpoint's header also tells how long its run took, its arrays are the state."""

from pathlib import Path

from minigen.train import checkpoint
from minigen.train.run import CHECKPOINT


def same_state(one: Path, two: Path) -> bool:
    """Whether the checkpoints in two runs' folders hold the same arrays, to the bit."""
    with (
        checkpoint.opened(one / CHECKPOINT, kind="checkpoint") as ours,
        checkpoint.opened(two / CHECKPOINT, kind="checkpoint") as theirs,
    ):
        names = sorted(ours.handle.keys())
        return names == sorted(theirs.handle.keys()) and all(
            ours.handle.get_tensor(name).tobytes() == theirs.handle.get_tensor(name).tobytes() for name in names
        )
