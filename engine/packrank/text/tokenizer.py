"""Texts to sequences: each text tokenized once, pairs joined from ids, truncation on ids."""

import itertools
import math
from collections import abc
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import models, normalizers, pre_tokenizers, processors

from packrank.arguments import check_text
from packrank.checkpoint.files import field, read_object
from packrank.errors import InputError, ModelError
from packrank.request import Int32, Pack, Sequence
from packrank.text.layout import Layout, Truncation

__all__ = ["Tokenizer", "Truncation", "batches"]

# Texts, and characters of them, handed to the library at once. Its encodings hold some 150 bytes
# a token until they are read: of 1024 texts of 200 tokens 30 MB, and of a million characters, the
# worst of which are a token each, 150 MB. It is enough to feed every core.
_TEXTS_AT_ONCE = 1024
_CHARACTERS_AT_ONCE = 1_000_000

_CONFIG = "tokenizer_config.json"

# Some tokenizer_config.json files write "no limit" as 10**30.
_NO_LIMIT = 10**9

# WordPiece over a BERT normalizer, laid out [CLS] A [SEP] B [SEP].
_BERT_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")

# What a special token is called where no file says.
_USUAL_NAMES = {
    "bos": ("<bos>", "<s>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
    "unk": ("[UNK]", "<unk>"),
}

_Item = TypeVar("_Item")


class Tokenizer:
    """The tokenizer of a model: text to ids, and ids to the layout the model was trained on.

    Safe to share between threads: nothing changes after construction.

    Attributes:
        model_max_length: most tokens of a sequence by tokenizer_config.json, None if it sets none.
        keeps_end: of what is too long, the end stays (truncation_side "left"), not the start.
        cls_token_id: the id of this special token, None where the tokenizer has none.
        bos_token_id: as cls_token_id.
        sep_token_id: as cls_token_id.
        pad_token_id: as cls_token_id.
        mask_token_id: as cls_token_id.
        unk_token_id: as cls_token_id.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any] | None = None) -> None:
        """Wrap a tokenizer of the `tokenizers` library.

        Args:
            backend: taken over; truncation and padding stored in it are switched off.
            config: contents of tokenizer_config.json.

        Raises:
            ModelError: the tokenizer cannot lay out a pair, or a setting makes no sense.
        """
        config = config or {}
        stored = backend.truncation or {}
        side = _field(config, "truncation_side", str) or stored.get("direction") or "right"
        if side not in ("left", "right"):
            raise ModelError(f"truncation_side is {side!r}, expected 'left' or 'right'")
        backend.no_truncation()
        backend.no_padding()
        example = _example(backend)
        self._backend = backend
        self.keeps_end = side == "left"
        self._single = Layout.of(backend, example)
        self._pair = Layout.of(backend, example, example)
        if "token_type_ids" not in (
            _field(config, "model_input_names", list) or ["token_type_ids"]
        ):
            self._single = self._single.without_token_types()
            self._pair = self._pair.without_token_types()
        self.model_max_length = _max_length(config)
        self.cls_token_id = self._special("cls", config)
        self.bos_token_id = self._special("bos", config)
        self.sep_token_id = self._special("sep", config)
        self.pad_token_id = self._special("pad", config)
        self.mask_token_id = self._special("mask", config)
        self.unk_token_id = self._special("unk", config)

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """The tokenizer saved in a model folder.

        Args:
            folder: holds tokenizer.json; or the vocab.txt of a BERT WordPiece; or what
                transformers, if installed, can convert.

        Raises:
            ModelError: there is no tokenizer, or it cannot be read.
        """
        config: dict[str, Any] = {}
        for name in ("special_tokens_map.json", _CONFIG):
            if (folder / name).is_file():
                config |= read_object(folder / name)
        return cls(_load(folder, config), config)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def token_id(self, token: str) -> int | None:
        """The id of a token, None if the vocabulary has no such token."""
        return self._backend.token_to_id(token)

    def token(self, token_id: int) -> str:
        """What the vocabulary calls a token, "" if it has none of this id."""
        return self._backend.id_to_token(token_id) or ""

    def num_special_tokens(self, *, pair: bool) -> int:
        """Tokens that the layout adds to a pair, or else to a single text."""
        return (self._pair if pair else self._single).num_special

    def encode(self, texts: abc.Sequence[str]) -> list[Int32]:
        """Token ids of each text, without special tokens; every distinct text is tokenized once.

        Args:
            texts: any strings, the empty one included.

        Returns:
            One [L] int32 array a text; equal texts share theirs.

        Raises:
            InputError: a text is not valid Unicode (see `check_text`).
        """
        ids: dict[str, Int32] = {}
        for part in batches(list(dict.fromkeys(texts)), len, _TEXTS_AT_ONCE, _CHARACTERS_AT_ONCE):
            for text in part:
                check_text(text)
            encodings = self._backend.encode_batch_fast(part, add_special_tokens=False)
            for text, encoding in zip(part, encodings, strict=True):
                found = encoding.ids
                ids[text] = np.fromiter(found, np.int32, len(found))
        return [ids[text] for text in texts]

    def offsets(self, text: str) -> tuple[Int32, list[tuple[int, int]]]:
        """Token ids of a text, as `encode` gives them, and the characters that each stands for."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.int32), encoding.offsets

    def pair(
        self,
        query_ids: Int32,
        document_ids: Int32,
        max_length: int | None,
        truncation: Truncation,
    ) -> Sequence:
        """Lay out a query and a document as one sequence.

        Each keeps its place where it is empty. Tokens are cut off the end of a text, or off its
        start if the tokenizer's truncation_side is "left".

        Args:
            query_ids: from `encode`.
            document_ids: from `encode`.
            max_length: most tokens of the sequence, special ones included; None for no limit.
            truncation: "longest_first" cuts the longer of the two, then both evenly;
                "only_second" cuts the document; "off" cuts nothing.

        Raises:
            InputError: the pair is longer than `max_length` and may not, or cannot, be cut to it.
        """
        texts = [query_ids, document_ids]
        pack, failures = self.pairs(texts, np.array([[0, 1]]), max_length, truncation)
        for reason in failures.values():
            raise InputError(reason)
        return pack[0]

    def pairs(
        self,
        texts: list[Int32],
        chosen: NDArray[np.int64],
        max_length: int | None,
        truncation: Truncation,
        causal: bool = False,
    ) -> tuple[Pack, dict[int, str]]:
        """Lay out many pairs, as `pair` does each.

        Args:
            texts: ids of each text, from `encode`.
            chosen: [N, 2]. Which text is the query of each pair, and which the document.
            max_length: as for `pair`.
            truncation: as for `pair`.
            causal: say which sequences share their beginning.

        Returns:
            The sequences of those that fit, in order; and place -> reason of the others.
        """
        return self._lay_out(self._pair, texts, chosen, max_length, truncation, causal)

    def single(self, ids: Int32, max_length: int | None, truncation: Truncation) -> Sequence:
        """Lay out one text as a sequence.

        Args:
            ids: from `encode`.
            max_length: most tokens of the sequence, special ones included; None for no limit.
            truncation: "off" cuts nothing; the others cut the text, there being no second.

        Raises:
            InputError: the text is longer than `max_length` and may not, or cannot, be cut to it.
        """
        one = np.array([[0]])
        pack, failures = self._lay_out(self._single, [ids], one, max_length, truncation)
        for reason in failures.values():
            raise InputError(reason)
        return pack[0]

    def _lay_out(
        self,
        layout: Layout,
        texts: list[Int32],
        chosen: NDArray[np.int64],
        max_length: int | None,
        truncation: Truncation,
        causal: bool = False,
    ) -> tuple[Pack, dict[int, str]]:
        sizes = np.array([len(ids) for ids in texts], dtype=np.int64)
        starts = (np.cumsum(sizes) - sizes)[chosen]
        lengths = sizes[chosen]
        failures: dict[int, str] = {}
        if max_length is not None:
            totals = lengths.sum(1) + layout.num_special
            for place in np.flatnonzero(totals > max_length).tolist():
                try:
                    fitted = layout.fit(tuple(lengths[place].tolist()), max_length, truncation)
                except InputError as error:
                    failures[place] = str(error)
                    continue
                if self.keeps_end:
                    starts[place] += lengths[place] - fitted
                lengths[place] = fitted
        if failures:
            starts = np.delete(starts, list(failures), axis=0)
            lengths = np.delete(lengths, list(failures), axis=0)
        nothing = np.zeros(0, dtype=np.int32)
        return layout.join(np.concatenate([nothing, *texts]), starts, lengths, causal), failures

    def _special(self, role: str, config: dict[str, Any]) -> int | None:
        if f"{role}_token" in config:  # null says that there is none
            token = _special_token(config, role)
            return None if token is None else self.token_id(token)
        # Only among added special tokens: "[CLS]" may be plain text in another vocabulary.
        added = self._backend.get_added_tokens_decoder()
        known = {entry.content: token_id for token_id, entry in added.items() if entry.special}
        return next((known[name] for name in _USUAL_NAMES[role] if name in known), None)


def batches(
    items: abc.Sequence[_Item], size: abc.Callable[[_Item], int], most: int, most_size: int
) -> abc.Iterator[abc.Sequence[_Item]]:
    """Runs of items in order, each of `most` at most and, unless alone, of `most_size` together."""
    start = total = 0
    for stop, item in enumerate(items):
        added = size(item)
        if stop > start and (stop - start == most or total + added > most_size):
            yield items[start:stop]
            start, total = stop, 0
        total += added
    if start < len(items):
        yield items[start:]


def _load(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    name = (_field(config, "tokenizer_class", str) or "BertTokenizer").removesuffix("Fast")
    bert = name in _BERT_CLASSES
    if (folder / "tokenizer.json").is_file():
        backend = _from_json(folder / "tokenizer.json")
        if bert and isinstance(backend.normalizer, normalizers.BertNormalizer):
            backend.normalizer = _bert_normalizer(config, backend.normalizer)
        return backend
    if bert and (folder / "vocab.txt").is_file():
        return _from_vocab(folder / "vocab.txt", config)
    if any(itertools.chain(folder.glob("vocab.*"), folder.glob("*.model"))):
        return _from_transformers(folder)
    raise ModelError(
        f"{folder} has no tokenizer: expected tokenizer.json, or vocab.txt of a BERT WordPiece"
    )


def _from_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} cannot be read as a tokenizer: {_line(error)}") from error


def _from_vocab(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT WordPiece, as transformers' BertTokenizer builds it from the same files."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} cannot be read as a vocabulary: {error}") from error
    vocab = {token: token_id for token_id, token in enumerate(lines)}
    special = {
        role: _special_token(config, role) or names[0] for role, names in _USUAL_NAMES.items()
    }
    missing = [special[role] for role in ("cls", "sep", "unk") if special[role] not in vocab]
    if missing:
        raise ModelError(f"{path} is not a BERT vocabulary: it lacks {', '.join(missing)}")
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=special["unk"]))
    backend.normalizer = _bert_normalizer(config, normalizers.BertNormalizer())
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = special["cls"], special["sep"]
    backend.post_processor = processors.BertProcessing((sep, vocab[sep]), (cls, vocab[cls]))
    backend.add_special_tokens([token for token in special.values() if token in vocab])
    return backend


def _bert_normalizer(
    config: dict[str, Any], stored: normalizers.BertNormalizer
) -> normalizers.BertNormalizer:
    """A stored normalizer in which what tokenizer_config.json says has the last word."""
    return normalizers.BertNormalizer(
        clean_text=stored.clean_text,
        handle_chinese_chars=_flag(config, "tokenize_chinese_chars", stored.handle_chinese_chars),
        strip_accents=_field(config, "strip_accents", bool)
        if "strip_accents" in config
        else stored.strip_accents,
        lowercase=_flag(config, "do_lower_case", stored.lowercase),
    )


def _from_transformers(folder: Path) -> tokenizers.Tokenizer:
    advice = "save the tokenizer as tokenizer.json with transformers' save_pretrained"
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ModelError(
            f"{folder} has no tokenizer.json, and transformers, which might convert what it has, "
            f"is not installed; install it, or {advice}"
        ) from None
    try:
        wrapper = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        return tokenizers.Tokenizer.from_str(wrapper.backend_tokenizer.to_str())
    except Exception as error:  # whatever the tokenizer classes of another library raise
        raise ModelError(
            f"{folder} has no tokenizer.json, and transformers cannot convert what it has "
            f"({_line(error)}); {advice}"
        ) from error


def _example(backend: tokenizers.Tokenizer) -> str:
    """A text of at least one token."""
    for text in itertools.chain(("a", "1"), backend.get_vocab()):
        if backend.encode(text, add_special_tokens=False).ids:
            return text
    raise ModelError("the tokenizer has no token for any text")


def _max_length(config: dict[str, Any]) -> int | None:
    limit = _field(config, "model_max_length", float)
    if limit is None:
        limit = _field(config, "max_len", float)
    if limit is None or limit > _NO_LIMIT:
        return None
    if math.isnan(limit) or limit < 1:
        raise ModelError(f"{_CONFIG}: model_max_length is {limit}, expected a positive number")
    return int(limit)


def _special_token(config: dict[str, Any], role: str) -> str | None:
    """The text of a special token, which the files spell as a string or an object."""
    name = f"{role}_token"
    token = _field(config, name, (str, dict))
    if isinstance(token, dict):
        token = field(token, "content", str, None, f"{_CONFIG}: {name}")
    return None if token is None else str(token)


def _field(config: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    return field(config, name, kind, None, _CONFIG)


def _flag(config: dict[str, Any], name: str, default: bool) -> bool:
    return bool(field(config, name, bool, default, _CONFIG))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
