"""lm-eval's client of a vLLM server, made to see exactly the tokens that lm-eval's transformers model sees."""

from __future__ import annotations

from typing import Any

from jinja2.exceptions import TemplateError
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.models.utils import has_bos_prefix


class ServedLM(LocalCompletionsAPI):  # type: ignore[misc]
    """Log-likelihoods and greedy answers from /v1/completions. Requests are sent as token ids.

    Six things differ from lm-eval's own client: no key is sent (the servers are ours; it would give them the caller's
    OPENAI_API_KEY); no `seed` is sent (nothing is sampled, and vLLM 0.32.0 dies of it on CPUs); special tokens are
    added as the tokenizer does by itself, unless the text begins with one already, which is what lm-eval's transformers
    model does and its client does not; `max_length` counts as it does there; a template that refuses a system message
    is used without it, as there; windows of a text, which have no place in the cache of answers, are not put there, of
    which the client dies.
    """

    def __init__(self, url: str, name: str, tokenizer: str, max_length: int, concurrency: int, trust: bool) -> None:
        super().__init__(
            base_url=f"{url}/v1/completions",
            model=name,
            tokenizer=tokenizer,
            tokenizer_backend="huggingface",
            max_length=max_length + 2,  # lm-eval's client subtracts one for an answer, and one more for windows
            num_concurrent=max(concurrency, 2),  # below 2 lm-eval takes another path
            trust_remote_code=trust,
            timeout=1800,
        )

    @property
    def api_key(self) -> str:
        return ""

    def _create_payload(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._create_payload(*args, **kwargs)
        payload.pop("seed", None)
        return payload

    async def amodel_call(self, *args: Any, cache_keys: Any = None, **kwargs: Any) -> Any:
        kept = cache_keys if cache_keys and None not in cache_keys else None
        return await super().amodel_call(*args, cache_keys=kept, **kwargs)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> Any:
        try:
            return super().apply_chat_template(chat_history, add_generation_prompt)
        except TemplateError:
            turns = [turn for turn in chat_history if turn["role"] != "system"]
            return super().apply_chat_template(turns, add_generation_prompt)

    def tok_encode(
        self, string: Any, left_truncate_len: int | None = None, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> Any:
        if not isinstance(string, str):  # from generate_until, whose add_special_tokens is lm-eval's default
            return [self.tok_encode(text, left_truncate_len) for text in string]
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and has_bos_prefix(string, self._prefix):
            special["add_special_tokens"] = False
        encoded: list[int] = self.tokenizer.encode(string, **special)
        return encoded[-left_truncate_len:] if left_truncate_len else encoded

    @property
    def _prefix(self) -> str:
        return str(self.tokenizer.decode(self.prefix_token_id))
