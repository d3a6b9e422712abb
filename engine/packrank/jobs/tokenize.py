"""A file of documents to a store of token ids."""

import os
from dataclasses import asdict

import torch
from torch import Tensor
from tqdm import tqdm

from packrank.arguments import check_text
from packrank.checkpoint.kind import TOKEN_IDS
from packrank.documents import Tokenization
from packrank.errors import InputError
from packrank.jobs.adding import Added, add_file
from packrank.jobs.documents import Documents
from packrank.jobs.pace import WINDOW_CHARACTERS, Pace
from packrank.stores.appender import Appender
from packrank.stores.token_store import check_tokenization
from packrank.text.tokenizer import Tokenizer


def tokenize_file(
    tokenizer: Tokenizer,
    tokenization: Tokenization,
    documents: Documents,
    store: str | os.PathLike[str],
    bar: "tqdm[None]",
    *,
    append: bool = False,
    keep: int = 20,
) -> Added:
    """Tokenize documents, whole, into a store, which is made if it is not there: see `add_file`.

    Args:
        tokenizer: of the model.
        tokenization: of the model, under the name that the store is to keep; must be that of the
            store.
        documents: the file.
        store: the folder.
        bar: moves by one a record.
        append: any other file, whole; it is refused otherwise.
        keep: most failures to return.

    Raises:
        StoreError: the store cannot be written, or is of another tokenizer or file.
        InputError: the file holds no document.
        OSError: the file cannot be read.
    """
    around = tokenization.before, tokenization.after

    def token_ids(texts: list[str], _: set[str]) -> tuple[list[Tensor | None], dict[int, str]]:
        wrong: dict[int, str] = {}
        whole = [""] * len(texts)
        for place, text in enumerate(texts):
            try:
                check_text(text)
                whole[place] = text.join(around)
            except InputError as error:
                wrong[place] = str(error)
        ids, failed = tokenizer.try_encode(whole)
        wrong = {place: failed[text] for place, text in enumerate(whole) if text in failed} | wrong
        rows = [torch.from_numpy(one)[:, None] for one in ids]
        return [None if place in wrong else one for place, one in enumerate(rows)], wrong

    with documents.open() as file, Appender(store, of_tokens=True) as writer:
        if writer.manifest is not None:
            check_tokenization(writer.path, writer.manifest, tokenization)
        return add_file(
            writer,
            documents,
            file,
            bar,
            Pace(torch.device("cpu"), WINDOW_CHARACTERS),
            lambda: writer.create(TOKEN_IDS, 1, asdict(tokenization)),
            token_ids,
            append=append,
            keep=keep,
        )
