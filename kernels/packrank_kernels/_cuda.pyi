_Strided = tuple[int, int, int]
_Addresses = tuple[int, int, int]

MOST_KEYS: int
MAXSIM_MOST_ROW_BYTES: int

def device_count() -> int: ...
def attention(
    device: int,
    stream: int,
    dtype: int,
    q: _Strided,
    k: _Strided,
    v: _Strided,
    out: int,
    cu_seqlens_q: int,
    cu_seqlens_k: int,
    num_queries: int,
    num_sequences: int,
    num_heads: int,
    head_size: int,
    scale: float,
    window: int,
    max_keys: int,
    one_query: bool,
) -> None: ...
def maxsim_plan(
    device: int, format: int, size: int, columns: int, owners: bool
) -> tuple[int, int]: ...
def maxsim(
    device: int,
    stream: int,
    format: int,
    size: int,
    queries: _Addresses,
    starts: tuple[int, ...],
    values: _Addresses,
    codec: _Addresses,
    documents: tuple[int, int],
    candidates: _Addresses,
    num_candidates: int,
    out: _Addresses,
    scores_stride: int,
    evicts_first: bool,
) -> None: ...
