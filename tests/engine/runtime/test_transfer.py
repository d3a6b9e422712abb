"""Arrays to a device: one copy a pack, and each array where a kernel likes it to start."""

import numpy as np
import torch

from packrank.runtime.transfer import PackUploads, Uploads


def test_the_arrays_of_a_pack_are_one_copy(monkeypatch) -> None:
    send, sizes = Uploads.send, []

    def counted(self, fill, target) -> None:
        sizes.append(len(target))
        send(self, fill, target)

    monkeypatch.setattr(Uploads, "send", counted)
    upload = PackUploads(torch.device("cpu"))
    for lengths in ([3, 0, 17, 16], [1]):
        arrays = {f"{n}.": np.arange(n, 2 * n, dtype=np.int32) for n in lengths}
        there = upload(arrays)
        assert there.keys() == arrays.keys()
        for name, array in arrays.items():
            assert there[name].dtype == torch.int32
            np.testing.assert_array_equal(there[name], array)
            assert there[name].storage_offset() % 16 == 0, "a multiple of 64 bytes"
    assert sizes == [16 + 32 + 16, 16]
    assert upload({}) == {}
