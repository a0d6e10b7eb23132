//! What precedes the names of a checkpoint's tensors. Most say `model.layers.0…`; the bare backbone, which embedding
//! models publish, says `layers.0…`, and the language part of a model that reads more than text
//! `language_model.model.layers.0…` or `model.language_model.layers.0…`. transformers loads all of them.

/// What Levain and most checkpoints write.
const USUAL: &str = "model.";
/// The likeliest first, for checkpoints with several backbones.
const KNOWN: [&str; 5] =
    ["", "language_model.model.", "model.language_model.", "language_model.", "model.text_model."];
/// Names that every backbone has, without what precedes them.
const ANCHORS: [&str; 2] = ["embed_tokens.weight", "layers.0.input_layernorm.weight"];
/// Beginnings of all names of a backbone.
const BACKBONE: [&str; 3] = ["embed_tokens.", "layers.", "norm."];

/// Gives names of one checkpoint their usual beginning.
pub(crate) struct Canonical {
    /// `None` where the names are as usual, or of no kind that is known.
    prefix: Option<String>,
}

impl Canonical {
    /// Finds out what precedes these names.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut found: Vec<&str> = Vec::new();
        for name in names {
            let prefix = ANCHORS.iter().find_map(|anchor| name.strip_suffix(anchor));
            let whole = |prefix: &&str| prefix.is_empty() || prefix.ends_with('.');
            // Layers for multi-token prediction have embeddings of their own.
            let Some(prefix) = prefix.filter(whole).filter(|prefix| !prefix.contains("layers.")) else {
                continue;
            };
            if prefix == USUAL {
                return Self { prefix: None };
            }
            if !found.contains(&prefix) {
                found.push(prefix);
            }
        }
        let prefix = match found.as_slice() {
            [only] => Some(*only),
            several => KNOWN.iter().find(|known| several.contains(known)).copied(),
        };
        Self { prefix: prefix.map(str::to_owned) }
    }

    /// The usual name of a tensor; the name itself if it is none of the language model's.
    pub(crate) fn name(&self, name: &str) -> String {
        let Some(prefix) = &self.prefix else { return name.to_owned() };
        if let Some(rest) = name.strip_prefix(prefix.as_str())
            && BACKBONE.iter().any(|start| rest.starts_with(start))
        {
            return format!("{USUAL}{rest}");
        }
        // The output head lies beside the backbone or further out.
        match name.split_once("lm_head.") {
            Some((before, rest)) if prefix.starts_with(before) => format!("lm_head.{rest}"),
            _ => name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(names: &[&str]) -> Vec<String> {
        let canonical = Canonical::of(names.iter().copied());
        names.iter().map(|name| canonical.name(name)).collect()
    }

    #[test]
    fn every_usual_beginning_is_found() {
        let usual =
            ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.norm.weight"];
        for prefix in [
            "",
            "model.",
            "language_model.model.",
            "model.language_model.",
            "language_model.",
            "transformer.",
            "base_model.model.model.",
            "module.model.",
            "_orig_mod.model.",
        ] {
            let theirs: Vec<String> = usual.iter().map(|name| name.replacen("model.", prefix, 1)).collect();
            let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
            assert_eq!(renamed(&theirs), usual, "{prefix}");
        }
    }

    #[test]
    fn output_heads_and_other_parts_keep_their_place() {
        assert_eq!(
            renamed(&[
                "language_model.model.embed_tokens.weight",
                "language_model.lm_head.weight",
                "vision_tower.layers.0.input_layernorm.weight",
                "language_model.model.layers.0.self_attn.q_proj.weight_scale_inv",
            ]),
            [
                "model.embed_tokens.weight",
                "lm_head.weight",
                "vision_tower.layers.0.input_layernorm.weight",
                "model.layers.0.self_attn.q_proj.weight_scale_inv",
            ]
        );
        assert_eq!(
            renamed(&["embed_tokens.weight", "lm_head.weight", "score.weight"])[1..],
            ["lm_head.weight", "score.weight"]
        );
        // What already is as usual stays, whatever else there is.
        let mixed = ["model.layers.0.input_layernorm.weight", "layers.0.input_layernorm.weight"];
        assert_eq!(renamed(&mixed), mixed);
        assert_eq!(
            renamed(&["model.layers.61.embed_tokens.weight"]),
            ["model.layers.61.embed_tokens.weight"]
        );
    }
}
