"""Small models that read several documents at once, as folders, and what they should say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from chats import CHATML, chatml
from chats import save as save_chat
from decoders import make, save_tokenizer
from prompts import byte_bpe
from safetensors.torch import save_file

MARKERS = ("<|embed_token|>", "<|rerank_token|>")
_TASK = (
    "You are a search relevance expert who can determine a ranking of the passages based on how "
    "relevant they are to the query. If the query is a question, how relevant a passage is depends "
    "on how well it answers the question. If not, try to analyze the intent of the query and "
    "assess how well each passage satisfies the intent. If an instruction is provided, you should "
    "follow the instruction when determining the ranking."
)


def jina(folder: Path, *, positions: int = 4000, model_max_length: int | None = None) -> "Jina":
    """A small jina-reranker-v3."""
    torch.manual_seed(0)
    backend = byte_bpe("<|im_start|>", "<|im_end|>", "<think>", "</think>")
    backend.add_special_tokens(list(MARKERS))
    backend.decoder = tokenizers.decoders.ByteLevel()
    model = make(
        "Qwen3",
        "ForCausalLM",
        vocab_size=backend.get_vocab_size(),
        max_position_embeddings=positions,
        initializer_range=0.1,
        tie_word_embeddings=False,
    )
    first, second = torch.randn(24, 48) / 5, torch.randn(16, 24) / 5
    tensors = {n: x for n, x in model.state_dict().items() if not n.startswith("lm_head")}
    tensors |= {"projector.0.weight": first, "projector.2.weight": second}
    folder.mkdir(exist_ok=True)
    save_file({n: x.clone().contiguous() for n, x in tensors.items()}, folder / "model.safetensors")
    raw = json.loads(model.config.to_json_string(use_diff=False))
    raw |= {
        "architectures": ["JinaForRanking"],
        "auto_map": {"AutoModel": "modeling.JinaForRanking"},
    }
    (folder / "config.json").write_text(json.dumps(raw))
    limit = {} if model_max_length is None else {"model_max_length": model_max_length}
    save_tokenizer(folder, backend, **limit)
    return Jina(folder, backend, model, first, second)


class Jina:
    """The folder, and its scores by transformers' Qwen3 and two products."""

    def __init__(
        self,
        folder: Path,
        backend: tokenizers.Tokenizer,
        model: Any,
        first: torch.Tensor,
        second: torch.Tensor,
    ) -> None:
        self.folder, self.backend, self.model = folder, backend, model
        self._first, self._second = first, second

    def prompt(self, query: str, documents: list[str], instruction: str = "") -> str:
        """As its authors put it together."""
        instructed = f"<instruct>\n{instruction}\n</instruct>\n" if instruction else ""
        passages = "\n".join(
            f'<passage id="{n}">\n{text}{MARKERS[0]}\n</passage>'
            for n, text in enumerate(documents)
        )
        return (
            f"<|im_start|>system\n{_TASK}<|im_end|>\n<|im_start|>user\nI will provide you with "
            f"{len(documents)} passages, each indicated by a numerical identifier. Rank the "
            f"passages based on their relevance to query: {query}\n{instructed}{passages}\n"
            f"<query>\n{query}{MARKERS[1]}\n</query><|im_end|>\n<|im_start|>assistant\n<think>\n\n"
            "</think>\n\n"
        )

    def vectors(self, prompt: str) -> tuple[np.ndarray, np.ndarray]:
        """[n, D] of documents and [D] of the query."""
        ids = self.backend.encode(prompt, add_special_tokens=False).ids
        with torch.no_grad():
            states = self.model.model(torch.tensor([ids])).last_hidden_state[0]
            found = torch.relu(states @ self._first.T) @ self._second.T
        where = [torch.tensor(ids) == self.backend.token_to_id(marker) for marker in MARKERS]
        return found[where[0]].numpy(), found[where[1]][0].numpy()

    def scores(self, query: str, blocks: list[list[str]], instruction: str = "") -> np.ndarray:
        """Of all documents of the blocks."""
        each = [self.vectors(self.prompt(query, block, instruction)) for block in blocks]

        def cosines(documents: np.ndarray, query: np.ndarray) -> np.ndarray:
            sizes = np.linalg.norm(documents, axis=1) * np.linalg.norm(query)
            return np.asarray(documents @ query / sizes)

        weights = [((1 + cosines(*one)) / 2).max() for one in each]
        query_vector = np.average([one[1] for one in each], axis=0, weights=weights)
        return np.concatenate([cosines(one[0], query_vector) for one in each])


def chat_model(folder: Path, family: str = "Qwen2", **options: Any) -> Any:
    """A small language model with a chat template; returns transformers' own of it."""
    torch.manual_seed(1)
    backend = chatml()
    sizes: dict[str, Any] = {"initializer_range": 0.25, "max_position_embeddings": 2000} | options
    model = make(family, "ForCausalLM", vocab_size=backend.get_vocab_size(), **sizes)
    model.generation_config.eos_token_id = backend.token_to_id("<|im_end|>")
    model.save_pretrained(folder)
    save_chat(folder, backend, CHATML, eos_token="<|im_end|>")
    return model
