"""Trains a tiny PWL pair for 20 steps and writes what it lost at each; `test_distributed` starts it in two processes.

    python train_in_processes.py FOLDER [--die-after STEPS]
"""

import argparse
import json
import os
import signal
from pathlib import Path

from networks_for_tests import tiny_data, tiny_net

import pwl_lite as pwl
from pwl_lite.distributed import processes
from pwl_lite.files import write_atomically

RECIPE = pwl.Recipe(epochs=20, batch_size=32, lr=0.02, crop=2, cutout=4, precision="fp32", channels_last=False)


class Mortal(pwl.ProgressiveDistillation):
    """PWL in a process that is killed, without a chance to say anything, after some steps."""

    steps_left = -1

    def terms(self, images, targets):
        if self.steps_left == 0 and processes().index == processes().count - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps_left -= 1
        return super().terms(images, targets)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die-after", type=int, default=-1)
    args = parser.parse_args()
    objective = Mortal(tiny_net(), draws=2, sample="even_composition", running_norm_from=0.5)
    objective.steps_left = args.die_after
    data = tiny_data(train=40)  # one step an epoch, so that the history has the losses of every step
    history = pwl.train(objective, data, RECIPE, checkpoint=args.folder / "checkpoint.pt", resume=True, progress=False)
    losses = [entry["loss"] for entry in history]
    write_atomically(args.folder / "losses.json", json.dumps({"losses": losses}))


if __name__ == "__main__":
    main()
