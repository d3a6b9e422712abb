_Strided = tuple[int, int, int]

def supported() -> list[str]: ...
def set_num_threads(num_threads: int) -> None: ...
def packed_size(isa: str, dtype: int, out_features: int, in_features: int) -> int: ...
def pack_linear(
    isa: str, dtype: int, weight: int, packed: int, out_features: int, in_features: int
) -> None: ...
def attention(
    isa: str,
    dtype: int,
    q: _Strided,
    k: _Strided,
    v: _Strided,
    out: int,
    cu_seqlens_q: int,
    cu_seqlens_k: int,
    prefix_of: int,
    num_sequences: int,
    num_heads: int,
    num_key_heads: int,
    head_size: int,
    scale: float,
    softcap: float,
    causal: bool,
    window: int,
    cos: int,
    sin: int,
    position_keys: int,
    position_queries: int,
    position_rows: int,
    position_bias: int,
    num_positions: int,
) -> None: ...
def paged_attention(
    isa: str,
    dtype: int,
    q: _Strided,
    new_k: _Strided,
    new_v: _Strided,
    pages: tuple[tuple[int, ...], tuple[int, ...], int, int, int, int],
    out: int,
    cu_seqlens_q: int,
    cu_seqlens_k: int,
    num_sequences: int,
    num_heads: int,
    num_key_heads: int,
    head_size: int,
    scale: float,
    softcap: float,
    window: int,
    cos: int,
    sin: int,
) -> None: ...
def add_layer_norm(
    isa: str,
    dtype: int,
    x: int,
    residual: int,
    weight: int,
    bias: int,
    normed: int,
    total: int,
    rows: int,
    size: int,
    eps: float,
) -> None: ...
def add_rms_norm(
    isa: str,
    dtype: int,
    x: int,
    residual: int,
    weight: int,
    normed: int,
    total: int,
    rows: int,
    size: int,
    eps: float,
    scale: float,
) -> None: ...
def embed_layer_norm(
    isa: str,
    dtype: int,
    token_ids: int,
    positions: int,
    token_types: int,
    token_table: int,
    position_table: int,
    type_table: int,
    weight: int,
    bias: int,
    out: int,
    rows: int,
    size: int,
    eps: float,
) -> None: ...
def linear(
    isa: str,
    dtype: int,
    x: int,
    x_stride: int,
    packed: int,
    bias: int,
    out: int,
    rows: int,
    in_features: int,
    out_features: int,
    activation: int,
    gated: bool,
    wide: bool,
) -> None: ...
def maxsim(
    isa: str,
    documents: tuple[int, ...],
    outliers: tuple[int, int, int, int, int],
    queries: tuple[int, ...],
    candidates: tuple[int, int, int],
    scores: int,
) -> None: ...
def matches(
    isa: str,
    documents: tuple[int, ...],
    outliers: tuple[int, int, int, int, int],
    queries: tuple[int, ...],
    candidates: tuple[int, int, int],
    scores: int,
    tokens: int,
) -> None: ...
def stream(
    isa: str, x: int, out: int, largest: int, size: int, num_shares: int, repeats: int
) -> None: ...
