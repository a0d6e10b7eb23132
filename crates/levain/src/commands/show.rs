//! `levain show`

use std::collections::BTreeMap;

use levain_hub::bytes;
use levain_weights::{Checkpoint, ModelConfig};
use serde_json::json;

use crate::app::App;
use crate::cli::ShowArgs;
use crate::commands::JSON_VERSION;
use crate::error::CliError;
use crate::printer::table;
use crate::vocabulary;

/// Shows what a stored model is made of.
pub(crate) fn run(app: &App, args: &ShowArgs) -> Result<(), CliError> {
    let hub = app.hub()?;
    let reference = app.reference(&hub, &args.model)?;
    let model = hub.require(&reference)?;
    let checkpoint = Checkpoint::open(&model.path)?;
    let config = checkpoint.config();
    // A shape can say anything where another one of its dimensions is 0.
    let parameters = checkpoint.entries().fold(0u64, |sum, entry| {
        let values = entry.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64));
        sum.saturating_add(values.unwrap_or(0))
    });
    let mut types: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in checkpoint.entries() {
        *types.entry(entry.storage.name()).or_default() += entry.bytes as u64;
    }
    let template = vocabulary::open(&model.path)
        .is_ok_and(|vocabulary| vocabulary.tokenizer.chat_template_source().is_some());
    if args.json {
        let config = config.as_ref().ok().map(description);
        return app.printer.json(&json!({
            "version": JSON_VERSION,
            "model": model,
            "format": checkpoint.format().name(),
            "parameters": parameters,
            "types": types,
            "config": config,
            "chat_template": template,
        }));
    }
    let mut rows: Vec<[String; 2]> = vec![
        ["name".into(), model.reference.clone()],
        ["opens".into(), model.path.display().to_string()],
        ["source".into(), model.source.clone()],
        ["size".into(), bytes(model.bytes)],
        ["format".into(), checkpoint.format().name().into()],
        ["parameters".into(), count(parameters)],
        [
            "weights".into(),
            types.iter().map(|(name, n)| format!("{name} {}", bytes(*n))).collect::<Vec<_>>().join(", "),
        ],
        ["chat template".into(), if template { "yes" } else { "no" }.into()],
    ];
    match &config {
        Ok(config) => {
            rows.push(["architecture".into(), config.model_type.name().into()]);
            rows.push(["context".into(), format!("{} tokens", config.max_position_embeddings)]);
            rows.push([
                "shape".into(),
                format!(
                    "{} layers of {}, {} heads and {} for keys and values, vocabulary of {}",
                    config.num_hidden_layers,
                    config.hidden_size,
                    config.num_attention_heads,
                    config.num_key_value_heads,
                    config.vocab_size
                ),
            ]);
        }
        Err(error) => rows.push(["architecture".into(), format!("can't be run: {error}")]),
    }
    if let Some(revision) = &model.revision {
        rows.push(["revision".into(), revision.clone()]);
    }
    for file in &model.files {
        let digest = file.sha256.as_deref().map(|sha| format!(", sha256 {sha}")).unwrap_or_default();
        rows.push(["file".into(), format!("{}, {}{digest}", file.name, bytes(file.bytes))]);
    }
    app.printer.data(table(&rows.map_to_vec()))
}

/// The fields that scripts ask for.
fn description(config: &ModelConfig) -> serde_json::Value {
    json!({
        "model_type": config.model_type.name(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
    })
}

/// A count for people: `135 M`, `7.6 B`.
fn count(n: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits for people")]
    let value = n as f64;
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.0} M", value / 1e6),
        _ => format!("{:.1} B", value / 1e9),
    }
}

trait MapToVec {
    fn map_to_vec(self) -> Vec<Vec<String>>;
}

impl MapToVec for Vec<[String; 2]> {
    fn map_to_vec(self) -> Vec<Vec<String>> {
        self.into_iter().map(|row| row.to_vec()).collect()
    }
}
