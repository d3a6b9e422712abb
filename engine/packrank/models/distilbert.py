"""DistilBERT: BERT's layers under other names, no token types."""

from packrank.models.base import Parameters
from packrank.models.layers import Head
from packrank.models.post_norm import Names, PostNormModel


class DistilBertModel(PostNormModel):
    """Head: classifier(relu(pre_classifier(h[0])))."""

    prefix = "distilbert."
    names = Names(
        layer="transformer.layer.{}.",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_out="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        mlp_norm="output_layer_norm",
    )

    def _load_head(self, parameters: Parameters) -> Head:
        size = self.config.hidden_size
        return parameters.head("pre_classifier", size, "relu", "classifier", self.num_labels)
