"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers, positions that step over padding ids."""

import numpy as np

from packrank.models.base import Parameters
from packrank.models.layers import Head
from packrank.models.post_norm import PostNormModel
from packrank.request import Int32, Pack


class RobertaModel(PostNormModel):
    """Head: out_proj(tanh(dense(h[0])))."""

    prefix = "roberta."

    def _load_head(self, parameters: Parameters) -> Head:
        size = self.config.hidden_size
        return parameters.head(
            "classifier.dense", size, "tanh", "classifier.out_proj", self.num_labels
        )

    def _positions(self, pack: Pack) -> Int32:
        """Real tokens count up from pad_token_id + 1; a literal padding id stays at pad_token_id.

        Source: create_position_ids_from_input_ids of transformers' RoBERTa.
        """
        pad = self.config.pad_token_id
        is_real = pack.token_ids != pad
        seen = np.append(np.int32(0), np.cumsum(is_real, dtype=np.int32))
        starts = pack.cu_seqlens[:-1]
        before = np.repeat(seen[starts], np.diff(pack.cu_seqlens))
        positions: Int32 = (seen[1:] - before) * is_real + np.int32(pad)
        return positions
