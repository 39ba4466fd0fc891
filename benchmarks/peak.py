"""What the machine can do at best: matrix products of a model's shapes, and nothing else."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from benchmarks.bars import seconds_of
from tasks.numerics.matrix_products import product

PEAK_ROWS = (512, 1024, 2048, 4096, 8192)


class Peak:
    """The machine's matrix-product peak at a model's own shapes: FLOP/s of the best rows M, threading and library.

    In float32 torch's own products are MKL's, and oneDNN's may be faster. Either all threads share one product, or each
    has a product of its own, whichever is faster.
    """

    def __init__(self, products: Sequence[tuple[int, int]], dtype: torch.dtype) -> None:
        self.flop_of_shape: dict[tuple[int, int], float] = {}
        for rows, columns in products:
            self.flop_of_shape[rows, columns] = self.flop_of_shape.get((rows, columns), 0.0) + rows * columns
        self.dtype = dtype
        self.threads = torch.get_num_threads()

    def measure(self) -> float:
        """Shapes weighted by their share of the model's FLOP. About two seconds."""
        total = sum(self.flop_of_shape.values())
        return total / sum(flop / self._best(*shape) for shape, flop in self.flop_of_shape.items())

    def _best(self, rows: int, columns: int) -> float:
        weight = torch.randn(rows, columns, dtype=self.dtype)
        rates = []
        kernels = [nn.functional.linear, product] if self.dtype == torch.float32 else [nn.functional.linear]
        for m in PEAK_ROWS:
            inputs = torch.randn(m, columns, dtype=self.dtype)
            repeats = max(int(4e9 / (m * rows * columns)), 1)

            for multiply in kernels:

                @torch.inference_mode()
                def products(
                    inputs: torch.Tensor = inputs,
                    repeats: int = repeats,
                    multiply: Callable[..., torch.Tensor] = multiply,
                ) -> None:
                    for _ in range(repeats):
                        multiply(inputs, weight)

                products()
                flop = 2.0 * m * rows * columns * repeats
                rates.append(flop / min(seconds_of(products) for _ in range(2)))
                rates.append(self.threads * flop / self._each_alone(products))
        return max(rates)

    def _each_alone(self, products: Callable[[], None]) -> float:
        try:
            with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                list(pool.map(lambda _: products(), range(self.threads)))
                return min(
                    seconds_of(lambda: list(pool.map(lambda _: products(), range(self.threads))))
                    for _ in range(2)
                )
        finally:
            torch.set_num_threads(self.threads)
