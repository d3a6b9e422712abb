_Strided = tuple[int, int, int]

MOST_KEYS: int

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
