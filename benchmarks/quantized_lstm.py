"""What does a step of a quantized LSTM cell cost? Prints microseconds a step, in turns: torch's LSTM, its modular form, and that in integers and float16.

    python benchmarks/quantized_lstm.py --threads 2
    python benchmarks/quantized_lstm.py --units 200 650 1500 --batch 10 --rounds 15 --device cuda

All four hold the very same weights. "int8" is asymmetric with a scale for each channel, its ranges from statistics; "of modular" is what it costs against the
floats in parts. Most of it is calls of small operations, some sixty a step: it tells most where little is computed in a step.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.quantization import PostTrainLinearQuantizer, collect_stats, modular
from timing import machine, medians_in_turns, show

FORMS = ("torch", "modular", "int8", "fp16")


class Recurrent(nn.Module):
    """A model of one LSTM."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(units, units)

    def forward(self, x: Tensor) -> Tensor:
        """All outputs."""
        output: Tensor = self.rnn(x)[0]
        return output


def forms(units: int, steps: int, batch: int, device: str) -> dict[str, Callable[[], Callable[[], Tensor]]]:
    """By name, what makes an evaluation of each form."""
    torch.manual_seed(0)
    plain = Recurrent(units).to(device).eval()
    x = torch.randn(steps, batch, units, device=device)
    parts = modular(plain, inplace=False)
    with collect_stats(parts) as collected, torch.no_grad():
        parts(x)
    integers, halves = copy.deepcopy(parts), copy.deepcopy(parts)
    options = {"mode": "asymmetric_unsigned", "per_channel_wts": True}
    PostTrainLinearQuantizer(integers, model_activation_stats=collected.stats, **options).prepare_model([x[:2]])  # type: ignore[arg-type]
    PostTrainLinearQuantizer(halves, fpq_module=16).prepare_model()
    return dict(zip(FORMS, [partial(partial, forward, model, x) for model in (plain, parts, integers, halves)], strict=True))


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> Tensor:
    """The outputs, when they are there."""
    output: Tensor = model(x)
    if output.is_cuda:
        torch.cuda.synchronize()
    return output


def rows(options: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    """One row a width and batch."""
    for units in options.units:
        for batch in options.batch:
            times = medians_in_turns(forms(units, options.steps, batch, options.device), options.rounds)
            microseconds = [f"{1e6 * times[form] / options.steps:.0f}" for form in FORMS]
            yield units, batch, *microseconds, f"{times['int8'] / times['modular']:.2f} x", f"{times['int8'] / times['torch']:.2f} x"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--units", type=int, nargs="+", default=[200, 650, 1500], help="inputs and units of the layer")
    parser.add_argument("--batch", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    show(("units", "batch", *(f"{form} us" for form in FORMS), "of modular", "of torch"), rows(options))
    print(f"\none layer, {options.steps} steps; {machine()}")


if __name__ == "__main__":
    main()
