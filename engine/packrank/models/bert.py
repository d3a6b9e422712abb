"""BERT: BertForSequenceClassification, its plain encoders, and Stanford ColBERT's body."""

from packrank.models.base import Parameters
from packrank.models.layers import Head
from packrank.models.post_norm import PostNormModel


class BertModel(PostNormModel):
    """Head: classifier(tanh(pooler(h[0])))."""

    prefix = "bert."

    def _load_head(self, parameters: Parameters) -> Head:
        size = self.config.hidden_size
        return parameters.head("bert.pooler.dense", size, "tanh", "classifier", self.num_labels)
