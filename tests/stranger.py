"""What tests/wheel.py runs in the bare environment: packrank and its dependencies, nothing else."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import packrank
import packrank_kernels
from packrank import LateInteraction, Reranker, Store, maxsim
from packrank.demo.report import Sample
from packrank_kernels import _cpu

HIDDEN, INNER = 32, 64
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_tokenizer(folder: Path, words: list[str]) -> int:
    """Of these words, as BERT's; how many ids it has."""
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIALS}
    config = {"tokenizer_class": "BertTokenizer", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary)


def save_model(folder: Path, vocabulary: int, head: bool) -> None:
    """A BERT of two layers, seeded random weights; with one label, or without a head."""
    torch.manual_seed(0)
    config = {
        "model_type": "bert", "architectures": ["BertForSequenceClassification" if head
        else "BertModel"], "vocab_size": vocabulary, "hidden_size": HIDDEN, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": INNER, "max_position_embeddings": 128,
        "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "num_labels": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    body = "bert." if head else ""
    tables = {"word": vocabulary, "position": 128, "token_type": 2}
    shapes = {
        f"{body}embeddings.{name}_embeddings.weight": (rows, HIDDEN)
        for name, rows in tables.items()
    }
    norms = [f"{body}embeddings.LayerNorm"]
    for layer in range(2):
        at = f"{body}encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            shapes[f"{at}.attention.self.{name}.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{at}.attention.output.dense.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{at}.intermediate.dense.weight"] = (INNER, HIDDEN)
        shapes[f"{at}.output.dense.weight"] = (HIDDEN, INNER)
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    if head:
        shapes |= {"bert.pooler.dense.weight": (HIDDEN, HIDDEN), "classifier.weight": (1, HIDDEN)}
    tensors = {name: torch.randn(shape) / HIDDEN**0.5 for name, shape in shapes.items()}
    linear = [name for name in shapes if "embeddings." not in name]
    tensors |= {f"{name[:-6]}bias": torch.zeros(shapes[name][0]) for name in linear}
    tensors |= {f"{name}.weight": torch.ones(HIDDEN) for name in norms}
    tensors |= {f"{name}.bias": torch.zeros(HIDDEN) for name in norms}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def main() -> None:
    for module in (packrank, packrank_kernels, _cpu):
        print(module.__file__)
    sample = Sample.load()
    words = sorted({word for text in sample.documents for word in text.lower().split()})
    folders = {name: Path(name) for name in ("cross-encoder", "encoder")}
    for name, folder in folders.items():
        folder.mkdir()
        save_model(folder, save_tokenizer(folder, words), head=name == "cross-encoder")
    query = next(iter(sample.queries.values()))
    reranker = Reranker(folders["cross-encoder"], device="cpu")
    scores = reranker.score([(query, document) for document in sample.documents]).tolist()
    ranking = reranker.rank(query, sample.documents)
    assert all(map(math.isfinite, scores)) and len(set(scores)) > 10
    assert [ranked.score for ranked in ranking] == sorted(scores, reverse=True)
    late = LateInteraction(folders["encoder"], device="cpu")
    late.encode_documents(sample.documents, "sample.store", sample.ids)
    store = Store.open("sample.store")
    best = maxsim(late.encode_queries([query]), store, top_k=3)
    assert best.scores.shape == (1, 3) and best.scores.isfinite().all()
    late.attach(store)
    assert late.rank(query, top_k=1)[0].id == store.ids[int(best.indices[0, 0])]
    Path("documents.txt").write_text("\n".join(sample.documents))


main()
