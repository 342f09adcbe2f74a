"""The energy distance and its gradient against geomloss

    python benchmarks/energy_distance.py [--quick] [--device cuda]

16 sets of 512 cells, 2,000 features, and 4 sets of 18,000. Predicted cells have a gradient and real ones none, as in
training. Values and gradients of both are compared.
"""

from pathlib import Path

from turns import Contest, main


def loss_and_gradient(loss, shape: list[int], device: str):
    import torch

    torch.manual_seed(0)
    predicted, real = (torch.rand(shape, device=device) * 3 for _ in range(2))
    predicted.requires_grad_()

    def call() -> None:
        predicted.grad = None
        loss(predicted, real).mean().backward()

    call()
    return call, predicted.grad


def state_hf(folder: str, shape: list[int], device: str):
    from safetensors.torch import save_file

    from state_hf.modeling.losses import EnergyDistanceLoss

    call, gradient = loss_and_gradient(EnergyDistanceLoss(), shape, device)
    save_file({"gradient": gradient.cpu()}, Path(folder, "gradient.safetensors"))
    return call


def geomloss(folder: str, shape: list[int], device: str):
    from geomloss import SamplesLoss
    from safetensors.torch import load_file

    call, gradient = loss_and_gradient(SamplesLoss("energy"), shape, device)
    ours = load_file(Path(folder, "gradient.safetensors"))["gradient"]
    difference = ((gradient.cpu() - ours).norm() / ours.norm()).item()
    if difference > 1e-4:
        raise SystemExit(f"The gradients differ by {difference} of their norm.")
    return call


def claim(contest: Contest) -> None:
    shapes = [[2, 512, 2000]] if contest.quick else [[16, 512, 2000], [4, 512, 18_000]]
    with contest.folder() as folder:
        for shape in shapes:
            options = {"folder": str(folder), "shape": shape, "device": contest.device}
            case = f"Energy distance and gradient, {shape[0]} sets of {shape[1]} cells, {shape[2]:,} features"
            contest.compare(case, (state_hf, geomloss), options, repeats=3 if contest.quick else 7)


if __name__ == "__main__":
    main(claim)
