"""The private names of torch do what their stand-ins say, with the torch that is installed."""

import torch

from benchmark.system import torch_private


def test_adding_to_each():
    tensors, others = [torch.ones(2), torch.zeros(3, 1)], [torch.full((2,), 2.0), torch.ones(3, 1)]
    torch_private.add_to_each_(tensors, others, alpha=-0.5)
    assert [tensor.flatten().tolist() for tensor in tensors] == [[0.0, 0.0], [-0.5, -0.5, -0.5]]


def test_a_marked_size_is_compiled_once_for_all():
    seen = []

    def backend(graph, inputs):
        seen.append(1)
        return graph.forward

    double = torch.compile(lambda tensor: tensor * 2, backend=backend, dynamic=False)
    first = torch.ones(4, 3)
    torch_private.mark_size_dynamic(first, 0)
    assert [len(double(torch.ones(size, 3) if size != 4 else first)) for size in (4, 5, 7)] == [4, 5, 7]
    assert len(seen) == 1


def test_so_many_versions_are_kept():
    seen = []

    def backend(graph, inputs):
        seen.append(1)
        return graph.forward

    with torch._dynamo.config.patch(recompile_limit=torch._dynamo.config.recompile_limit):  # puts back what was there
        torch_private.allow_versions(3)
        torch._dynamo.reset()
        double = torch.compile(lambda tensor: tensor * 2, backend=backend, dynamic=False)
        for size in range(2, 9):
            double(torch.ones(size))
    assert len(seen) == 3
