"""Few-shot examples that do not depend on which other documents are asked."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from lm_eval.api.samplers import ContextSampler


def keep_examples(task: Any, documents: list[int]) -> None:
    """Gives each of these documents (their numbers, in order) the examples that it has when the whole task is asked.

    lm-eval draws the examples of one document after those of the document before it. A document of a sample would get
    others with every document that the sample takes more, and what it answered could not be kept. Tasks whose examples
    are the same for all documents are left as they are.
    """
    drawing = getattr(task, "sampler", None)
    if type(drawing) is ContextSampler:
        task.sampler = _AsInTheWholeTask(drawing, documents)


class _AsInTheWholeTask(ContextSampler):  # type: ignore[misc]
    """Draws, and throws away, for the documents that are left out."""

    def __init__(self, drawing: ContextSampler, documents: list[int]) -> None:
        self.__dict__.update(drawing.__dict__)
        self._left_out = [after - before - 1 for before, after in pairwise([-1, *documents])]
        self._asked = 0

    def set_rnd(self, rnd: int | None) -> ContextSampler:
        self._asked = 0
        return super().set_rnd(rnd)

    def sample(self, n: int, eval_doc: Any = None, df: Any = None, **kwargs: Any) -> Any:
        if n > 0:
            places = range(len(self.fewshot_docs()))
            for _ in range(self._left_out[self._asked]):
                self.rnd.sample(places, n + 1 if eval_doc else n)
            self._asked += 1
        return super().sample(n, eval_doc, df, **kwargs)
