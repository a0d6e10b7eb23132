//! A loaded model: its engine, vocabulary, template and habits.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use levain_engine::{Engine, EngineConfig, MemoryPlan};
use levain_tokenizer::{SpecialTokens, Tokenizer};
use levain_weights::Checkpoint;

use crate::{
    error::LocalError,
    files::{self, Vocabulary},
    guide::Guide,
    sampling::SamplingDefaults,
    sandbox::TemplateWorker,
    stream::Unread,
    table::TokenTable,
    template::Template,
};

/// How a model is loaded.
#[derive(Debug, Clone, Default)]
pub struct LocalOptions {
    /// Threads, context length, cache type, memory limit and the like.
    pub engine: EngineConfig,
    /// A chat template in place of all of the model's own, as Jinja source.
    pub chat_template: Option<String>,
    /// Renders chat templates apart from this process, where they can be ended; without it on the threads that prepare
    /// requests, which is for templates that can be trusted.
    pub template_worker: Option<TemplateWorker>,
    /// A smaller model with the same tokens, for [`levain_engine::Speculation::DraftModel`].
    pub draft: Option<PathBuf>,
}

/// A model in memory, ready to answer.
pub struct LocalModel {
    pub(crate) engine: Engine,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<Template>,
    pub(crate) table: Arc<TokenTable>,
    pub(crate) guide: Arc<Guide>,
    /// What of its answers nobody has read.
    pub(crate) unread: Arc<Unread>,
    pub(crate) sampling: SamplingDefaults,
    /// Tokens that end an answer.
    pub(crate) stop_ids: Vec<u32>,
    /// Control tokens that stand for their own text.
    pub(crate) marks: Arc<[u32]>,
    /// The tokens that close thinking by force; empty for models that don't think.
    pub(crate) closing: Arc<[u32]>,
    pub(crate) created: u64,
}

impl LocalModel {
    /// Loads a checkpoint: a `.gguf` file, or a folder with `config.json`, safetensors and `tokenizer.json`.
    ///
    /// # Errors
    /// If a file is missing, damaged or of a kind that is not read, or if the model does not fit into memory.
    pub fn open(path: &Path, options: LocalOptions) -> Result<Self, LocalError> {
        Self::load(&Checkpoint::open(path)?, options)
    }

    /// As [`open`](Self::open), of a checkpoint that is open already.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn load(checkpoint: &Checkpoint, options: LocalOptions) -> Result<Self, LocalError> {
        let config = checkpoint.config()?;
        let mut vocabulary = files::vocabulary(checkpoint)?;
        let tokens = vocabulary.tokenizer.vocab_size() as usize;
        // A larger table of logits than vocabulary is padding; the other way round the files are mixed up. Entries
        // behind the table that a file adds without a row are tolerated as long as they can't be generated.
        if tokens > config.vocab_size.saturating_add(TOKENS_WITHOUT_ROW_MAX) {
            return Err(LocalError::TokenizerMismatch { tokens, vocab_size: config.vocab_size });
        }
        let worker = options.template_worker.as_ref();
        let template = Template::load(&mut vocabulary, options.chat_template, worker)?;
        let Vocabulary { tokenizer, path } = vocabulary;
        let wrong = |source| LocalError::Tokenizer { path: path.clone(), source };
        let marks: Arc<[u32]> = template
            .iter()
            .flat_map(Template::marks)
            .filter_map(|mark| tokenizer.token_to_id(&mark))
            .filter(|&id| tokenizer.is_control(id))
            .collect();
        let table = TokenTable::new(config.vocab_size, |id| {
            let bytes = if marks.contains(&id) {
                tokenizer.token_bytes_with_control(id)
            } else {
                tokenizer.token_bytes(id)
            };
            bytes.unwrap_or_default()
        });
        let closing = match template.as_ref().and_then(|template| template.tags.as_ref()) {
            Some(tags) => tokenizer
                .encode(&format!("\n{}\n\n", tags.close), SpecialTokens::Parse)
                .map_err(wrong)?
                .into(),
            None => Arc::from([]),
        };
        let mut stop_ids = config.eos_token_ids.clone();
        stop_ids.extend_from_slice(tokenizer.eos_ids());
        stop_ids.retain(|&id| (id as usize) < config.vocab_size);
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let draft = options.draft.as_deref().map(Checkpoint::open).transpose()?;
        if let Some(draft) = &draft {
            same_tokens(&tokenizer, &files::vocabulary(draft)?.tokenizer)?;
        }
        let is_r1 = template.as_ref().is_some_and(|template| template.is_r1);
        let table = Arc::new(table);
        Ok(Self {
            engine: Engine::load_with_draft(checkpoint, draft.as_ref(), options.engine)?,
            tokenizer: Arc::new(tokenizer),
            guide: Arc::new(Guide::new(Arc::clone(&table))),
            unread: Arc::default(),
            sampling: SamplingDefaults::new(checkpoint.generation_defaults()?, is_r1),
            template,
            table,
            stop_ids,
            marks,
            closing,
            created: created(checkpoint),
        })
    }

    /// What the model takes of the memory; printing it gives a table.
    #[must_use]
    pub fn memory_plan(&self) -> &MemoryPlan {
        self.engine.plan()
    }

    /// Positions that a request may use, prompt and answer together.
    #[must_use]
    pub fn context_length(&self) -> usize {
        self.engine.context_length()
    }

    /// The engine, for measurements.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The vocabulary.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether it thinks before it answers.
    #[must_use]
    pub fn thinks(&self) -> bool {
        self.template.as_ref().is_some_and(|template| template.tags.is_some())
    }

    /// Whether there is a chat template; without one only completions work.
    #[must_use]
    pub fn can_chat(&self) -> bool {
        self.template.is_some()
    }
}

impl std::fmt::Debug for LocalModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalModel").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// Checks that a draft model means the same as the model by each token id. Control tokens may differ, as they do
/// between a model and what others have made of it: drafts that contain them are wrong, and no more.
///
/// # Errors
/// If it does not, or a vocabulary is missing or damaged.
pub fn check_draft_vocabulary(model: &Checkpoint, draft: &Checkpoint) -> Result<(), LocalError> {
    same_tokens(&files::vocabulary(model)?.tokenizer, &files::vocabulary(draft)?.tokenizer)
}

fn same_tokens(model: &Tokenizer, draft: &Tokenizer) -> Result<(), LocalError> {
    let (ours, theirs) = (model.vocab_size(), draft.vocab_size());
    // Models of one family often differ in what they have been taught to mark.
    if ours.abs_diff(theirs) as usize > TOKENS_WITHOUT_ROW_MAX {
        return Err(LocalError::DraftVocabulary { model: ours, draft: theirs });
    }
    // Control tokens have no bytes.
    let differs = |&id: &u32| match (model.token_bytes(id), draft.token_bytes(id)) {
        (Some(ours), Some(theirs)) => ours != theirs && !ours.is_empty() && !theirs.is_empty(),
        _ => false,
    };
    match (0..ours.min(theirs)).find(differs) {
        None => Ok(()),
        Some(id) => {
            let shown = |tokenizer: &Tokenizer| {
                String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned()
            };
            Err(LocalError::DraftToken { id, model: shown(model), draft: shown(draft) })
        }
    }
}

/// Tokens that files list beyond the model's rows, as some fine-tuned models' do.
const TOKENS_WITHOUT_ROW_MAX: usize = 1024;

/// When the first weight file was written, in seconds since 1970; 0 if that is not known.
fn created(checkpoint: &Checkpoint) -> u64 {
    let time = |path: &std::path::PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let time: Option<SystemTime> = checkpoint.files().first().and_then(time);
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}
