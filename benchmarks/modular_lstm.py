"""How much slower is an LSTM of named parts than torch's own? Prints milliseconds a batch of both in turns, forward alone and with the backward pass.

    python benchmarks/modular_lstm.py --threads 2
    python benchmarks/modular_lstm.py --units 200 650 1500 --kind GRU --rounds 5 --device cuda

Both hold the very same weights. "difference" is the largest one of any output. Torch runs a whole layer in one call; the parts are called one by one,
which tells most where little is computed in a step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.quantization.convert import from_torch
from timing import machine, medians_in_turns, show

BUDGET = 3.0
"""Times torch's, in eager mode."""
KINDS: Mapping[str, type[nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


def forward(module: nn.Module, x: Tensor) -> Tensor:
    """The outputs of an evaluation, when they are there."""
    with torch.no_grad():
        output: Tensor = module(x)[0]
    return settled(output)


def training_step(module: nn.Module, x: Tensor) -> Tensor:
    """Forward and backward: the gradient of the sum of all outputs."""
    output: Tensor = module(x)[0]
    output.sum().backward()  # type: ignore[no-untyped-call]
    module.zero_grad()
    return settled(output)


def settled(output: Tensor) -> Tensor:
    """The same, after a device that runs behind has caught up."""
    if output.is_cuda:
        torch.cuda.synchronize()
    return output


PASSES: Mapping[str, Callable[[nn.Module, Tensor], Tensor]] = {"forward": forward, "forward + backward": training_step}


def pair(kind: str, units: int, layers: int, bidirectional: bool, device: str) -> dict[str, nn.Module]:
    """Torch's module and its modular form, with the same weights."""
    torch.manual_seed(0)
    ours: Any = KINDS[kind]
    plain = ours(units, units, layers, bidirectional=bidirectional).to(device)
    return {"torch": plain, "modular": from_torch(plain)}


def rows(options: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    """One row a width and pass."""
    for units in options.units:
        modules = pair(options.kind, units, options.layers, options.bidirectional, options.device)
        x = torch.randn(options.steps, options.batch, units, device=options.device)
        difference = (forward(modules["torch"], x) - forward(modules["modular"], x)).abs().max().item()
        for name, run in PASSES.items():
            times = medians_in_turns({which: partial(partial, run, module, x) for which, module in modules.items()}, options.rounds)
            ratio = times["modular"] / times["torch"]
            milliseconds = [f"{1e3 * times[which]:.1f}" for which in ("torch", "modular")]
            yield options.kind, units, name, *milliseconds, f"{ratio:.2f} x", "yes" if ratio <= BUDGET else "no", f"{difference:.1e}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kind", default="LSTM", choices=sorted(KINDS))
    parser.add_argument("--units", type=int, nargs="+", default=[200, 650, 1500], help="inputs and units of each layer")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--bidirectional", action="store_true")
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    header = ("module", "units", "pass", "torch ms", "modular ms", "slower", f"within {BUDGET:g} x", "difference")
    show(header, rows(options))
    print(f"\n{options.layers} layers, {options.steps} steps, batches of {options.batch}; {machine()}")


if __name__ == "__main__":
    main()
