"""The energy distance and its gradient against geomloss, alternating in one run.

    python benchmarks/energy_distance.py                       # 16 sets of 512 cells, 2,000 features, one thread
    python benchmarks/energy_distance.py --features 18000 --sets 4
    python benchmarks/energy_distance.py --device cuda

Needs an environment with geomloss and this package. Predicted cells have a gradient and real ones none, as in training.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from geomloss import SamplesLoss

from state_hf.modeling.losses import EnergyDistanceLoss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=16)
    parser.add_argument("--cells", type=int, default=512)
    parser.add_argument("--features", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    shape = (arguments.sets, arguments.cells, arguments.features)
    predicted, real = (torch.rand(shape, device=arguments.device) * 3 for _ in range(2))
    losses: dict[str, Callable[..., torch.Tensor]] = {"geomloss": SamplesLoss("energy"), "ours": EnergyDistanceLoss()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
    values, gradients = {}, {}
    for repeat in range(arguments.repeats + 1):
        for name, loss in losses.items():
            cells = predicted.clone().requires_grad_()
            wall, cpu = time.perf_counter(), time.process_time()
            value = loss(cells, real).mean()
            value.backward()
            values[name], gradients[name] = value.item(), cells.grad
            if repeat:  # the first warms up
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    for name, rows in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:10} {wall:7.3f} s wall  {cpu:7.3f} s CPU  loss {values[name]:.7f}")
    for place, kind in enumerate(("wall", "CPU")):
        ratios = [peer[place] / own[place] for peer, own in zip(times["geomloss"], times["ours"], strict=True)]
        print(f"ours is {statistics.median(ratios):.2f}x by {kind} time ({min(ratios):.2f} to {max(ratios):.2f})")
    difference = (gradients["ours"] - gradients["geomloss"]).norm() / gradients["geomloss"].norm()
    print(f"relative difference of the gradients {difference.item():.1e}")


if __name__ == "__main__":
    main()
