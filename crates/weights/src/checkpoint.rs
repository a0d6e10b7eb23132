//! A checkpoint: named tensors in one or several mapped files, and the description of the model.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use levain_kernels::{DType, StoredWeights};

use crate::config::{GenerationDefaults, ModelConfig};
use crate::direct::{TensorPlace, TensorReader};
use crate::error::{ConfigProblem, WeightsError, WrongFile};
use crate::gguf::{self, GgufMetadata};
use crate::map::Bytes;
use crate::open;
use crate::storage::StorageType;

/// How a checkpoint is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One or several GGUF files.
    Gguf,
    /// One or several safetensors files and a `config.json`.
    Safetensors,
}

impl Format {
    /// The format's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "GGUF",
            Self::Safetensors => "safetensors",
        }
    }
}

/// An open checkpoint. All sizes have been checked against the files; tensors are read by page as they are used.
///
/// Tensors have the names of Hugging Face checkpoints, such as `model.layers.0.self_attn.q_proj.weight`,
/// whatever the format. GGUF's tensors without such a name keep their own.
#[derive(Debug)]
pub struct Checkpoint {
    pub(crate) format: Format,
    pub(crate) folder: PathBuf,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) data: Vec<Arc<Bytes>>,
    /// In the order of the files.
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) by_name: HashMap<String, usize>,
    pub(crate) gguf: Option<GgufMetadata>,
    pub(crate) safetensors_metadata: BTreeMap<String, String>,
}

/// Where a tensor lies.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// The name in the file.
    pub(crate) source_name: String,
    /// Index into the files.
    pub(crate) file: usize,
    pub(crate) storage: StorageType,
    pub(crate) shape: Vec<usize>,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// A tensor in the mapped file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView<'a> {
    /// The block format.
    pub dtype: DType,
    /// Outermost dimension first: [rows, columns] of a matrix, where a row's values lie together.
    pub shape: Vec<usize>,
    /// `shape` in the format `dtype`, row after row.
    pub bytes: &'a [u8],
}

/// A tensor's entry in a listing, whether its type can be computed with or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorEntry<'a> {
    /// Canonical name.
    pub name: &'a str,
    /// Name in the file.
    pub source_name: &'a str,
    /// Stored type.
    pub storage: StorageType,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Size in the file.
    pub bytes: usize,
}

impl Checkpoint {
    /// Opens a `.gguf` file (of a split one any part), a `.safetensors` file, or a folder with
    /// `model.safetensors`, `model.safetensors.index.json` or a GGUF file.
    ///
    /// Nothing but headers is read. A GGUF file with a vocabulary alone opens too.
    ///
    /// # Errors
    /// If a file can't be read, breaks its format's rules, is cut short, or is of a kind that is not read.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let opened = open::open(path)?;
        opened.intact().check()?;
        Ok(opened)
    }

    /// Opens one file's contents held in memory; `path` tells which kind it is, and where to look for
    /// `config.json`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        open::open_bytes(path, Bytes::Owned(bytes))
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The folder that holds the files; tokenizer files lie there too.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The weight files in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Tells, as long as it is kept, whether a file has lost parts or was changed.
    pub fn intact(&self) -> Intact {
        Intact(self.data.iter().enumerate().map(|(n, bytes)| (self.path(n), Arc::clone(bytes))).collect())
    }

    /// Bytes of all weight files together.
    pub fn file_bytes(&self) -> u64 {
        self.data.iter().map(|bytes| bytes.as_slice().len() as u64).sum()
    }

    /// Bytes of all tensors together.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.len as u64).sum()
    }

    /// The GGUF metadata, if the format is GGUF.
    pub fn metadata(&self) -> Option<&GgufMetadata> {
        self.gguf.as_ref()
    }

    /// The free texts of a safetensors file's header; empty for GGUF.
    pub fn safetensors_metadata(&self) -> &BTreeMap<String, String> {
        &self.safetensors_metadata
    }

    /// Canonical names in the files' order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// All tensors in the files' order.
    pub fn entries(&self) -> impl Iterator<Item = TensorEntry<'_>> {
        self.tensors.iter().map(|tensor| TensorEntry {
            name: &tensor.name,
            source_name: &tensor.source_name,
            storage: tensor.storage,
            shape: &tensor.shape,
            bytes: tensor.len,
        })
    }

    /// A tensor by its canonical name; `None` if there is none or its type can't be computed with. To tell
    /// these apart use [`Checkpoint::optional`] or [`Checkpoint::require`].
    ///
    /// A single expert (`model.layers.3.mlp.experts.7.up_proj.weight`) is also found where the file stores
    /// all experts of a layer as one tensor (`model.layers.3.mlp.experts.up_proj.weight`).
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.view(self.locate(name)?).ok()
    }

    /// A tensor that must have this shape if it is there.
    ///
    /// # Errors
    /// If it has another shape or a type that can't be computed with.
    pub fn optional(&self, name: &str, shape: &[usize]) -> Result<Option<TensorView<'_>>, WeightsError> {
        self.locate_shaped(name, shape)?.map(|place| self.view(place)).transpose()
    }

    /// Where a tensor lies that must be there, in this shape.
    ///
    /// # Errors
    /// As [`Checkpoint::require`].
    pub fn place(&self, name: &str, shape: &[usize]) -> Result<TensorPlace, WeightsError> {
        let view = self.require(name, shape)?;
        let found = self.locate(name);
        let (file, start) = found.map_or((0, 0), |place| (place.tensor.file, place.start));
        Ok(TensorPlace { dtype: view.dtype, file, start, len: view.bytes.len() })
    }

    /// The checkpoint's files, open for reading whole tensors past the memory map.
    ///
    /// # Errors
    /// If a file can't be opened, or is not the one any more that the checkpoint was opened from.
    pub fn reader(&self) -> Result<TensorReader, WeightsError> {
        TensorReader::open(self.paths.iter().zip(self.data.iter().map(|bytes| bytes.stamp())))
    }

    fn locate_shaped(&self, name: &str, shape: &[usize]) -> Result<Option<Place<'_>>, WeightsError> {
        let Some(place) = self.locate(name) else { return Ok(None) };
        if place.shape != shape {
            return Err(WeightsError::Shape {
                file: self.path(place.tensor.file),
                name: place.tensor.source_name.clone(),
                found: place.shape,
                expected: shape.to_vec(),
            });
        }
        Ok(Some(place))
    }

    /// A tensor that must be there, in this shape.
    ///
    /// # Errors
    /// If it is missing, has another shape, or a type that can't be computed with.
    pub fn require(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, WeightsError> {
        self.optional(name, shape)?.ok_or_else(|| {
            let file = self.paths.first().unwrap_or(&self.folder).clone();
            WeightsError::MissingTensor { file, name: name.to_owned() }
        })
    }

    /// A tensor that must be there, in this shape, for use beyond the life of the checkpoint; the file stays mapped
    /// for it.
    ///
    /// # Errors
    /// As [`Checkpoint::require`].
    pub fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        let place = self.place(name, shape)?;
        let file = self.data.get(place.file).map(Arc::clone).unwrap_or_default();
        Ok(StoredTensor { dtype: place.dtype, file, start: place.start, len: place.len })
    }

    /// Whether the checkpoint has such a tensor or expert, of any type.
    pub fn contains(&self, name: &str) -> bool {
        self.locate(name).is_some()
    }

    /// Tells the system that a tensor's pages need not stay in memory, after it was copied elsewhere. It can
    /// still be read. A name that is not there is no error.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn release(&self, name: &str) -> Result<(), WeightsError> {
        self.advise(name, Bytes::release)
    }

    /// Asks the system to read a tensor ahead of its use. A name that is not there is no error.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn will_need(&self, name: &str) -> Result<(), WeightsError> {
        self.advise(name, Bytes::will_need)
    }

    /// The model's description, validated.
    ///
    /// # Errors
    /// If it is missing, describes an architecture that is not supported, or holds impossible values. A GGUF
    /// file with a vocabulary alone has none.
    pub fn config(&self) -> Result<ModelConfig, WeightsError> {
        let read = self.read_config();
        // What a file lost or had changed explains any complaint about it.
        self.intact().check()?;
        read
    }

    fn read_config(&self) -> Result<ModelConfig, WeightsError> {
        let mut config = match &self.gguf {
            Some(meta) => gguf::model_config(meta, self.gguf_facts()?)?,
            None => {
                let path = self.folder.join("config.json");
                let bytes = open::read_small(&path, crate::limits::CONFIG_BYTES_MAX)?
                    .ok_or_else(|| WeightsError::wrong(&self.folder, WrongFile::NoConfig))?;
                ModelConfig::from_json(&path, &bytes)?
            }
        };
        // An instruct model's file for generation often ends answers at more tokens than its config.
        for id in self.generation_defaults()?.eos_token_ids {
            let known = usize::try_from(id).is_ok_and(|id| id < config.vocab_size);
            if !config.eos_token_ids.contains(&id) && known {
                config.eos_token_ids.push(id);
            }
        }
        Ok(config)
    }

    /// Recommended sampling; all `None` if the checkpoint has no opinion.
    ///
    /// # Errors
    /// If `generation_config.json` can't be read or holds impossible values.
    pub fn generation_defaults(&self) -> Result<GenerationDefaults, WeightsError> {
        if let Some(meta) = &self.gguf {
            return gguf::generation_defaults(meta);
        }
        let path = self.folder.join("generation_config.json");
        match open::read_small(&path, crate::limits::CONFIG_BYTES_MAX)? {
            Some(bytes) => GenerationDefaults::from_json(&path, &bytes),
            None => Ok(GenerationDefaults::default()),
        }
    }

    fn gguf_facts(&self) -> Result<gguf::TensorFacts<'_>, WeightsError> {
        let shape = |name: &str| self.by_canonical(name).map(|tensor| tensor.shape.as_slice());
        Ok(gguf::TensorFacts {
            embedding: shape("model.embed_tokens.weight"),
            has_output: shape("lm_head.weight").is_some(),
            has_query_bias: shape("model.layers.0.self_attn.q_proj.bias").is_some(),
            has_shared_experts: self
                .tensors
                .iter()
                .any(|tensor| tensor.name.contains(".mlp.shared_experts.")),
            rope_freqs: self.rope_freqs()?,
        })
    }

    fn rope_freqs(&self) -> Result<Option<Vec<f32>>, WeightsError> {
        const NAME: &str = "rope_freqs.weight";
        let Some(place) = self.locate(NAME) else { return Ok(None) };
        let view = self.view(place)?;
        if view.dtype != DType::F32 {
            let file = self.paths.first().unwrap_or(&self.folder);
            let expected = "a tensor of type F32";
            let found = view.dtype.name().to_owned();
            return Err(WeightsError::config(file, NAME, ConfigProblem::WrongType { found, expected }));
        }
        let (values, _) = view.bytes.as_chunks::<4>();
        Ok(Some(values.iter().map(|&value| f32::from_le_bytes(value)).collect()))
    }

    pub(crate) fn by_canonical(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    fn locate(&self, name: &str) -> Option<Place<'_>> {
        if let Some(tensor) = self.by_canonical(name) {
            return Some(Place { tensor, shape: tensor.shape.clone(), start: tensor.start, len: tensor.len });
        }
        self.locate_expert(name)
    }

    /// Finds one expert within a layer's tensor of all experts, [experts, rows, columns].
    fn locate_expert(&self, name: &str) -> Option<Place<'_>> {
        let (layer, rest) = name.split_once(".mlp.experts.")?;
        let (expert, projection) = rest.split_once('.')?;
        let expert: usize = expert.parse().ok()?;
        let stacked = |projection: &str| {
            let tensor = self.by_canonical(&format!("{layer}.mlp.experts.{projection}"))?;
            let &[experts, rows, columns] = tensor.shape.as_slice() else { return None };
            let len = tensor.len.checked_div(experts)?;
            let start = tensor.start.checked_add(len.checked_mul(expert)?)?;
            (expert < experts).then_some((tensor, rows, columns, start, len))
        };
        if let Some((tensor, rows, columns, start, len)) = stacked(projection) {
            return Some(Place { tensor, shape: vec![rows, columns], start, len });
        }
        // Some files hold gate and up as one tensor, the gate's rows first.
        let second = match projection {
            "gate_proj.weight" => false,
            "up_proj.weight" => true,
            _ => return None,
        };
        let (tensor, rows, columns, start, len) = stacked("gate_up_proj.weight")?;
        if rows % 2 != 0 {
            return None;
        }
        let half = len / 2;
        let start = if second { start.checked_add(half)? } else { start };
        Some(Place { tensor, shape: vec![rows / 2, columns], start, len: half })
    }

    fn view(&self, place: Place<'_>) -> Result<TensorView<'_>, WeightsError> {
        let tensor = place.tensor;
        let Some(dtype) = tensor.storage.dtype() else {
            return Err(WeightsError::UnsupportedType {
                file: self.path(tensor.file),
                name: tensor.source_name.clone(),
                type_name: tensor.storage.name().to_owned(),
            });
        };
        let bytes = self
            .data
            .get(tensor.file)
            .and_then(|bytes| bytes.as_slice().get(place.start..place.start.checked_add(place.len)?))
            .unwrap_or_default();
        Ok(TensorView { dtype, shape: place.shape, bytes })
    }

    fn advise(
        &self,
        name: &str,
        advice: impl FnOnce(&Bytes, usize, usize) -> std::io::Result<()>,
    ) -> Result<(), WeightsError> {
        let Some(place) = self.locate(name) else { return Ok(()) };
        let Some(bytes) = self.data.get(place.tensor.file) else { return Ok(()) };
        advice(bytes, place.start, place.len).map_err(|e| WeightsError::io(&self.path(place.tensor.file), e))
    }

    fn path(&self, file: usize) -> PathBuf {
        self.paths.get(file).unwrap_or(&self.folder).clone()
    }
}

/// Tells whether the files of a checkpoint have lost parts since they were opened, cut short by somebody or on a disk
/// that fails, or were written to. What is lost reads as zeros, what was written may be read in part. Files that were
/// renamed, removed or replaced are still there for those who have them open, and whole. The files stay mapped and open
/// as long as this is kept.
#[derive(Debug, Clone, Default)]
pub struct Intact(Vec<(PathBuf, Arc<Bytes>)>);

impl Intact {
    /// Looks.
    ///
    /// # Errors
    /// [`WeightsError::Lost`] or [`WeightsError::Changed`], with the file. All that was read from it since it was opened
    /// is void.
    pub fn check(&self) -> Result<(), WeightsError> {
        self.0.iter().try_for_each(|(path, bytes)| bytes.check(path))
    }

    /// This and another one's files.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// A tensor's bytes in a mapped file, which stays mapped as long as this lives.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// The block format.
    pub dtype: DType,
    file: Arc<Bytes>,
    start: usize,
    len: usize,
}

impl StoredWeights for StoredTensor {
    fn bytes(&self) -> &[u8] {
        let end = self.start.saturating_add(self.len);
        self.file.as_slice().get(self.start..end).unwrap_or_default()
    }

    fn let_go(&self, part: Range<usize>) {
        let (from, to) = (part.start.min(self.len), part.end.min(self.len));
        // Pages that stay are only memory that the system may take itself when it needs some.
        let _ = self.file.release(self.start.saturating_add(from), to.saturating_sub(from));
    }
}

/// A tensor or a part of one.
struct Place<'a> {
    tensor: &'a Tensor,
    shape: Vec<usize>,
    start: usize,
    len: usize,
}
