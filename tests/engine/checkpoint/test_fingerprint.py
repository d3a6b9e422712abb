"""What tells the files of one model from those of another."""

import hashlib
from pathlib import Path

from packrank.checkpoint.fingerprint import fingerprint


def test_a_fingerprint_is_of_what_makes_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "1_Dense").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "1_Dense/model.safetensors").write_bytes(b"weights")
    seen = [fingerprint(folder)]
    content = b"0/config.json 2\n{}0/model.safetensors 7\nweights"
    assert seen == [hashlib.sha256(content).hexdigest()]
    (folder / "packrank_exits.json").write_text("margins")
    (folder / "README.md").write_text("words")
    (folder / "1_Dense/config.json").write_text("{}")
    assert fingerprint(folder) == seen[0]
    (folder / "model.safetensors").write_bytes(b"weighty")
    seen.append(fingerprint(folder))
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Dense"}]')
    seen.append(fingerprint(folder))
    (folder / "1_Dense/config.json").write_text("{ }")
    seen.append(fingerprint(folder))
    vocabulary = ("tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja")
    for name in vocabulary:
        (folder / name).write_text("a")
        seen.append(fingerprint(folder))
    assert len(set(seen)) == 4 + len(vocabulary)
