"""A micro-batch's losses and gradients as one CUDA graph: launched at once, in place of thousands of kernels."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

WARM_UP = 3  # passes before the recording, in which libraries choose and load their kernels


class CapturedGradients:
    """Computes what `compute` computes, which adds its gradients to those of the network's parameters.

    Recorded once with the first micro-batch and launched as a whole from then on, with other numbers in the same
    places: every micro-batch must have its shapes, and nobody may set a gradient to None. `compute` takes tensors of
    the device by name and must not wait for the device. The network's statistics are left as they were found.
    """

    def __init__(
        self,
        compute: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
        first: Mapping[str, Tensor],
        network: nn.Module,
    ) -> None:
        self._inputs = {name: value.clone() for name, value in first.items()}
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                compute(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = compute(self._inputs)
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the terms of this micro-batch; they are overwritten by the next one."""
        for name, place in self._inputs.items():
            place.copy_(inputs[name], non_blocking=True)
        self._graph.replay()
        return self._outputs
