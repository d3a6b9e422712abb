"""What becomes of every key of config.json that code of a family reads: tables, one a family.

A key is applied where the model is put together, known to change no score, or understood with some
values alone; with any other value the folder is refused. What is in no table of its family no code
of that family reads, and it changes nothing. Source: configuration and modeling files of
transformers 5, and of FlagEmbedding for models that transformers has not.
"""

from dataclasses import dataclass, field
from typing import Any

from packrank.checkpoint.files import shown
from packrank.errors import ModelError


@dataclass(frozen=True)
class Keys:
    """What becomes of the keys of a family.

    Attributes:
        applied: read, and checked, where the model is put together.
        harmless: change no score, whatever they hold.
        only: key -> the values that are understood; a key that is left out is.
    """

    applied: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    only: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def __or__(self, other: "Keys") -> "Keys":
        only = self.only | other.only
        return Keys(self.applied | other.applied, self.harmless | other.harmless, only)

    def __contains__(self, key: str) -> bool:
        return key in self.applied or key in self.harmless or key in self.only


def _keys(applied: str = "", harmless: str = "", **only: tuple[Any, ...]) -> Keys:
    return Keys(frozenset(applied.split()), frozenset(harmless.split()), only)


_ABSENT = (None,)
_OFF = (False, None)

# What every config of transformers has, or its loader reads.
_EVERY = _keys(
    applied="architectures model_type auto_map id2label num_labels vocab_size pad_token_id "
    "max_position_embeddings sentence_transformers sbert_ce_default_activation_function",
    harmless="_attn_implementation _commit_hash _name_or_path attn_implementation bos_token_id "
    "chunk_size_feed_forward cls_token_id dtype eos_token_id experts_implementation "
    "gradient_checkpointing init_std initializer_factor initializer_range label2id loss_type "
    "name_or_path output_attentions output_hidden_states problem_type return_dict sep_token_id "
    "tie_last_hidden_states torch_dtype transformers_version use_cache "
    "use_return_dict",
    attribute_map=({},),
    configuration_files=(),
    decoder=_ABSENT,
    distributed_config=_ABSENT,
    fusion_config=_ABSENT,
    generator=_ABSENT,
    is_encoder_decoder=_OFF,
    per_layer_config=_ABSENT,
    pruned_heads=(None, {}),
    quantization_config=_ABSENT,
    text_config=_ABSENT,
    text_encoder=_ABSENT,
    transformers_weights=_ABSENT,
)

_ENCODER = _EVERY | _keys(applied="exit_layers", harmless="is_causal tie_word_embeddings")

_POST_NORM = _ENCODER | _keys(
    applied="hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "layer_norm_eps type_vocab_size",
    harmless="attention_probs_dropout_prob classifier_dropout hidden_dropout_prob",
    add_cross_attention=_OFF,
    is_decoder=_OFF,
    # Of transformers before 5; nothing reads it since.
    position_embedding_type=("absolute", None),
)

# That it is there spares the check that heads divide the hidden size, which is made here anyway.
_BERT = _POST_NORM | _keys(
    harmless="embedding_size",
    # Of layouts that no version of transformers has under these names.
    use_flash_attn=_ABSENT,
)

_DECODER = _EVERY | _keys(
    applied="hidden_size num_hidden_layers num_attention_heads intermediate_size "
    "num_key_value_heads rms_norm_eps rope_parameters rope_scaling rope_theta "
    "original_max_position_embeddings tie_word_embeddings is_causal "
    "use_bidirectional_attention",
    harmless="attention_dropout pretraining_tp is_decoder",
    partial_rotary_factor=(1, None),
)
_LLAMA = _DECODER | _keys(applied="hidden_act head_dim")
_SLIDING = _keys(applied="sliding_window layer_types")
_QWEN = _SLIDING | _keys(applied="use_sliding_window max_window_layers")
_GEMMA2 = _SLIDING | _keys(
    applied="attention_bias hidden_activation query_pre_attn_scalar attn_logit_softcapping "
    "final_logit_softcapping head_dim",
    harmless="hidden_act",
)

_GTE = _keys(
    applied="hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "layer_norm_eps type_vocab_size rope_theta rope_scaling rope_parameters",
    harmless="attention_probs_dropout_prob classifier_dropout hidden_dropout_prob default_theta",
)

# A score is a token's, whose logit no class of labels says anything of.
_UNREAD = _keys(
    "id2label num_labels max_position_embeddings sentence_transformers "
    "sbert_ce_default_activation_function"
).applied
_T5 = Keys(_EVERY.applied - _UNREAD, _EVERY.harmless | _UNREAD, _EVERY.only) | _keys(
    applied="d_model d_kv d_ff num_layers num_decoder_layers num_heads hidden_size head_dim "
    "num_hidden_layers num_attention_heads relative_attention_num_buckets feed_forward_proj "
    "relative_attention_max_distance layer_norm_epsilon tie_word_embeddings is_gated_act "
    "dense_act_fn decoder_start_token_id",
    harmless="classifier_dropout dropout_rate is_decoder",
    is_encoder_decoder=(True,),
)

# It always runs both ways, and pools by the mask.
_BIDIREC_UNREAD = {"is_causal", "use_bidirectional_attention", "pad_token_id"}

# model_type -> its keys.
KEYS: dict[str, Keys] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _POST_NORM
    | _keys(
        harmless="embedding_size use_flash_attn use_reentrant emb_pooler load_trained_adapters "
        "lora_main_params_trainable matryoshka_dimensions truncate_dim",
        # Of xlm-roberta-flash, whose adapters are chosen text by text.
        lora_adaptations=(None, []),
    ),
    "camembert": _BERT,
    "electra": _POST_NORM
    | _keys(
        applied="embedding_size",
        harmless="summary_activation summary_first_dropout summary_last_dropout "
        "summary_proj_to_labels summary_type summary_use_proj",
    ),
    "distilbert": _ENCODER
    | _keys(
        applied="dim hidden_size n_layers num_hidden_layers n_heads num_attention_heads hidden_dim "
        "activation",
        harmless="attention_dropout dropout qa_dropout seq_classif_dropout sinusoidal_pos_embds",
    ),
    "modernbert": _ENCODER
    | _keys(
        applied="hidden_size num_hidden_layers num_attention_heads intermediate_size "
        "hidden_activation norm_eps norm_bias attention_bias mlp_bias classifier_bias "
        "classifier_activation classifier_pooling layer_types global_attn_every_n_layers "
        "local_attention sliding_window global_rope_theta local_rope_theta rope_parameters "
        "rope_scaling head_dim",
        harmless="attention_dropout classifier_dropout decoder_bias deterministic_flash_attn "
        "embedding_dropout initializer_cutoff_factor mlp_dropout reference_compile "
        "repad_logits_with_grad rope_theta sparse_pred_ignore_index sparse_prediction",
        partial_rotary_factor=(1, None),
    ),
    "deberta-v2": _POST_NORM
    | _keys(
        applied="embedding_size position_biased_input relative_attention max_relative_positions "
        "position_buckets pos_att_type share_att_key norm_rel_ebd conv_kernel_size conv_groups "
        "conv_act pooler_hidden_act pooler_hidden_size attention_head_size",
        harmless="pooler_dropout cls_dropout legacy",
    ),
    "gte": _ENCODER | _GTE | _keys(applied="head_dim"),
    "new": _ENCODER
    | _GTE
    | _keys(
        harmless="pack_qkv unpad_inputs use_memory_efficient_attention logn_attention_clip1 "
        "head_dim",
        layer_norm_type=("layer_norm",),
        logn_attention_scale=_OFF,
        position_embedding_type=("rope",),
    ),
    "llama": _LLAMA | _keys(applied="attention_bias mlp_bias"),
    "llama_bidirec": Keys(
        _LLAMA.applied - _BIDIREC_UNREAD,
        _LLAMA.harmless | _BIDIREC_UNREAD,
        _LLAMA.only,
    )
    | _keys(applied="attention_bias mlp_bias pooling temperature"),
    "mistral": _LLAMA | _SLIDING,
    "qwen2": _LLAMA | _QWEN,
    "qwen3": _LLAMA | _QWEN | _keys(applied="attention_bias"),
    "gemma": _LLAMA | _keys(applied="attention_bias", harmless="hidden_activation"),
    "gemma2": _DECODER | _GEMMA2,
    "minicpm": _DECODER
    | _keys(
        applied="attention_bias hidden_act scale_emb scale_depth start_layer head_type head_multi",
        harmless="dim_model_base head_dim layer_sep layer_wise",
    ),
    "t5": _T5 | _keys(applied="scale_decoder_outputs"),
    "mt5": _T5 | _keys(harmless="scale_decoder_outputs"),
    "cost_wise_gemma": _DECODER | _GEMMA2 | _keys(applied="start_layer layer_sep layer_wise"),
}

_ADVICE = {
    "configuration_files": "rename the file that it means to config.json",
    "is_decoder": "it makes a decoder of the encoder",
    "quantization_config": "pass the model that it was quantized from, or a copy that was "
    "dequantized and saved again in float16, bfloat16 or float32",
}


def check_keys(raw: dict[str, Any], model_type: str) -> None:
    """Refuse values that are not understood.

    Args:
        raw: config.json.
        model_type: a key of `KEYS`.

    Raises:
        ModelError: a key of `Keys.only` has another value.
    """
    for key, understood in KEYS[model_type].only.items():
        if key not in raw or any(_same(raw[key], value) for value in understood):
            continue
        method = raw[key].get("quant_method") if isinstance(raw[key], dict) else None
        named = f"{shown(method)} quantization" if isinstance(method, str) else shown(raw[key])
        advice = _ADVICE.get(key, "the models that run are those without it")
        raise ModelError(f"config.json: {key} {named} is not supported in {model_type}; {advice}")


def _same(value: object, understood: object) -> bool:
    """Whether two values are equal and of one kind; 1 is 1.0 and is not true."""
    return isinstance(value, bool) == isinstance(understood, bool) and value == understood
