"""ELECTRA: BERT's layers behind embeddings that may be narrower than they are."""

from torch import Tensor

from packrank.checkpoint.config import ModelConfig
from packrank.models.base import Inputs, Parameters, PoolingHead
from packrank.models.layers import Head
from packrank.models.post_norm import PostNormModel


class ElectraModel(PostNormModel):
    """Head: out_proj(gelu(dense(h[0]))), gelu where its relatives have tanh."""

    prefix = "electra."

    def __init__(
        self, config: ModelConfig, parameters: Parameters, *, head: bool | PoolingHead
    ) -> None:
        super().__init__(config, parameters, head=head)
        narrow, wide = config.embedding_size, config.hidden_size
        self._project = (
            parameters.linear("embeddings_project", narrow, wide) if narrow != wide else None
        )

    def _load_head(self, parameters: Parameters) -> Head:
        size = self.config.hidden_size
        return parameters.head(
            "classifier.dense", size, "gelu", "classifier.out_proj", self.num_labels
        )

    def _embed(self, inputs: Inputs) -> Tensor:
        x = super()._embed(inputs)
        return x if self._project is None else self._project(x)
