//! Tensor names: GGUF's and the canonical ones, which are those of Hugging Face checkpoints.

/// Names within a block, without `blk.N.` or `model.layers.N.` and without `.weight` or `.bias`.
/// Left GGUF (`gguf-py/gguf/constants.py`), right canonical.
const BLOCK: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_a", "self_attn.q_a_proj"),
    ("attn_q_a_norm", "self_attn.q_a_layernorm"),
    ("attn_q_b", "self_attn.q_b_proj"),
    ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    ("attn_kv_b", "self_attn.kv_b_proj"),
    // The two halves of kv_b_proj in newer files: [heads, kv_lora_rank, qk_nope_head_dim], transposed, and
    // [heads, v_head_dim, kv_lora_rank]. Hugging Face has no name for them; these follow its manner.
    ("attn_k_b", "self_attn.k_b_proj"),
    ("attn_v_b", "self_attn.v_b_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.experts.gate_proj"),
    ("ffn_up_exps", "mlp.experts.up_proj"),
    ("ffn_down_exps", "mlp.experts.down_proj"),
    ("ffn_gate_up_exps", "mlp.experts.gate_up_proj"),
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
    ("nextn.eh_proj", "eh_proj"),
    ("nextn.embed_tokens", "embed_tokens"),
    ("nextn.enorm", "enorm"),
    ("nextn.hnorm", "hnorm"),
    ("nextn.shared_head_head", "shared_head.head"),
    ("nextn.shared_head_norm", "shared_head.norm"),
];

/// Names outside the blocks, without `.weight`.
const WHOLE: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// The router's selection bias, the one tensor whose ending differs: GGUF `exp_probs_b.bias`.
const ROUTER_BIAS: &str = "mlp.gate.e_score_correction_bias";

/// The canonical name of a GGUF tensor; `None` for tensors that have none, such as `rope_freqs.weight`.
pub(crate) fn canonical(gguf: &str) -> Option<String> {
    let Some((block, rest)) = gguf.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        let (stem, ending) = gguf.rsplit_once('.')?;
        let name = lookup(WHOLE, stem)?;
        return Some(format!("{name}.{ending}"));
    };
    if block.is_empty() || !block.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if matches!(rest, "exp_probs_b.bias" | "exp_probs_b") {
        return Some(format!("model.layers.{block}.{ROUTER_BIAS}"));
    }
    let (stem, ending) = rest.rsplit_once('.')?;
    let name = lookup(BLOCK, stem)?;
    Some(format!("model.layers.{block}.{name}.{ending}"))
}

/// The GGUF name of a canonical one; `None` if GGUF has no place for it.
pub(crate) fn gguf(canonical: &str) -> Option<String> {
    let reverse = |table: &[(&'static str, &str)], name: &str| {
        table.iter().find(|(_, canonical)| *canonical == name).map(|(gguf, _)| *gguf)
    };
    let Some((block, rest)) = canonical.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'))
    else {
        let (stem, ending) = canonical.rsplit_once('.')?;
        let name = reverse(WHOLE, stem)?;
        return Some(format!("{name}.{ending}"));
    };
    if rest == ROUTER_BIAS {
        return Some(format!("blk.{block}.exp_probs_b.bias"));
    }
    let (stem, ending) = rest.rsplit_once('.')?;
    let name = reverse(BLOCK, stem)?;
    Some(format!("blk.{block}.{name}.{ending}"))
}

fn lookup(table: &[(&str, &'static str)], gguf: &str) -> Option<&'static str> {
    table.iter().find(|(name, _)| *name == gguf).map(|(_, canonical)| *canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (theirs, ours) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"),
            ("blk.3.exp_probs_b.bias", "model.layers.3.mlp.gate.e_score_correction_bias"),
            ("blk.61.nextn.shared_head_norm.weight", "model.layers.61.shared_head.norm.weight"),
            ("blk.61.nextn.eh_proj.weight", "model.layers.61.eh_proj.weight"),
        ] {
            assert_eq!(canonical(theirs).as_deref(), Some(ours));
            assert_eq!(gguf(ours).as_deref(), Some(theirs));
        }
    }

    #[test]
    fn each_name_is_mapped_to_one_other() {
        for (theirs, ours) in BLOCK {
            let full = format!("blk.7.{theirs}.weight");
            assert_eq!(canonical(&full), Some(format!("model.layers.7.{ours}.weight")));
            assert_eq!(gguf(&format!("model.layers.7.{ours}.weight")), Some(full));
        }
    }

    #[test]
    fn foreign_names_have_no_canonical_one() {
        for name in [
            "rope_freqs.weight",
            "blk.x.attn_q.weight",
            "blk..attn_q.weight",
            "blk.1",
            "",
            "v.patch_embd.weight",
        ] {
            assert_eq!(canonical(name), None, "{name}");
        }
    }
}
