//! What has to be the same for a block that was written once to be what would be computed now.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

use levain_kernels::KvLayout;
use levain_weights::{Checkpoint, ModelConfig};
use sha2::{Digest, Sha256};

/// A digest of model, cache layout and program.
pub(crate) type Identity = [u8; 32];

/// Bytes of a weight file that are looked at, from its beginning and from its end. Reading all would take as long as
/// loading it.
const SAMPLE_BYTES: u64 = 64 << 10;

/// Weight files by length, time of change and samples of their bytes, the model's description, the layout of blocks,
/// and the program: another version may compute the last bits in another way.
pub(crate) fn identity(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    layout: &KvLayout,
) -> io::Result<Identity> {
    let mut digest = Sha256::new();
    digest.update(b"levain KV blocks 1");
    for path in checkpoint.files() {
        add_file(&mut digest, path)?;
    }
    digest.update(format!("{config:?}{layout:?}{}", env!("CARGO_PKG_VERSION")));
    add_metadata(&mut digest, &fs::metadata(std::env::current_exe()?)?);
    Ok(digest.finalize().into())
}

fn add_metadata(digest: &mut Sha256, meta: &Metadata) {
    let changed = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    digest.update(meta.len().to_le_bytes());
    digest.update(changed.map_or(0, |since| since.as_nanos()).to_le_bytes());
}

fn add_file(digest: &mut Sha256, path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    add_metadata(digest, &meta);
    let mut sample = Vec::new();
    for start in [0, meta.len().saturating_sub(SAMPLE_BYTES)] {
        file.seek(SeekFrom::Start(start))?;
        sample.clear();
        (&mut file).take(SAMPLE_BYTES).read_to_end(&mut sample)?;
        digest.update((sample.len() as u64).to_le_bytes());
        digest.update(&sample);
    }
    Ok(())
}
