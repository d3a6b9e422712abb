"""BERT: BertForSequenceClassification, its plain encoders, and Stanford ColBERT's body."""

from packrank.layers import Head
from packrank.models.base import Parameters
from packrank.models.post_norm import PostNormModel


class BertModel(PostNormModel):
    """Head: classifier(tanh(pooler(h[0])))."""

    prefix = "bert."

    def _load_head(self, parameters: Parameters) -> Head:
        size = self.config.hidden_size
        return Head(
            dense=parameters.linear("bert.pooler.dense", size, size, activation="tanh"),
            norm=None,
            out=parameters.linear("classifier", size, self.num_labels),
        )
