//! Model references, downloads and the local store.
//!
//! A [`ModelRef`] is what a user types; a [`Hub`] finds the model on this disk ([`Hub::find`]) or fetches it
//! ([`Hub::pull`]), and only `pull`, [`Hub::remote_headers`] and [`Hub::reach`] touch the network. Files become visible
//! under their final name only when all their bytes are here and their digest is right.

mod address;
mod config;
mod digest;
mod disk;
mod download;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod hf;
mod http;
mod hub;
mod lock;
mod names;
mod nearest;
mod owner;
mod pasted;
mod pip;
mod progress;
mod pypi;
mod quant;
mod reference;
mod remote;
mod store;
mod wheel;

pub use config::{HubConfig, RetryPolicy, Secret};
pub use error::{HubError, bytes};
pub use header::{HeaderLength, gguf_header_length, safetensors_header_length};
pub use hub::Hub;
pub use nearest::nearest;
pub use owner::check_owners;
pub use pip::PipConfig;
pub use progress::{Progress, PullEvent, Silent, Transfer};
pub use reference::{HfRef, ModelRef, RepoId, Wanted};
pub use remote::RemoteHeaders;
pub use store::{StoredFile, StoredModel};
