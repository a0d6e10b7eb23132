//! What must hold for any index page and any wheel; shared with the fuzz targets.

use std::path::Path;

use levain_hub::fuzzing::{index_page, inspect_wheel, unpack_wheel};

use crate::support::sha256;

/// What is unpacked at most; more is only looked at.
const UNPACKED_BYTES_MAX: u64 = 1 << 20;

/// A page of an index names wheels of the package, by names that stay in the store, or is refused. Tells whether one was
/// chosen. The first byte of the input says which form the rest has.
pub(crate) fn page(input: &[u8]) -> bool {
    let Some((form, text)) = input.split_first() else { return false };
    let text = String::from_utf8_lossy(text);
    match index_page(&text, form % 2 == 0, "pkg") {
        Ok((all, chosen)) => {
            assert!(all.contains(&chosen));
            for (name, version, _) in &all {
                assert!(name.ends_with(".whl") && !name.contains(['/', '\\', '\0']), "{name:?}");
                let plain = |c: char| c.is_ascii_alphanumeric() || "._+!".contains(c);
                assert!(version.chars().all(plain) && !version.starts_with('.'), "{version:?}");
            }
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 4096, "{error}");
            false
        }
    }
}

/// A wheel is refused or gives files in the folder, of the lengths that it claims. Tells whether it did.
pub(crate) fn wheel(scratch: &Path, bytes: &[u8]) -> bool {
    let path = scratch.join("x-1.0-py3-none-any.whl");
    std::fs::write(&path, bytes).unwrap();
    let claimed = match inspect_wheel(&path) {
        Ok(claimed) => claimed,
        Err(error) => {
            assert!(error.to_string().len() < 4096, "{error}");
            return false;
        }
    };
    let most = (bytes.len() as u64 * 100).max(16 << 20);
    assert!(claimed.iter().all(|(_, bytes)| *bytes <= most), "{claimed:?}");
    if claimed.iter().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add) > UNPACKED_BYTES_MAX {
        return false;
    }
    let folder = scratch.join("unpacked");
    std::fs::create_dir(&folder).unwrap();
    let unpacked = unpack_wheel(&path, &folder);
    if let Ok(files) = &unpacked {
        let mut names: Vec<&String> = files.iter().map(|(name, ..)| name).collect();
        names.sort();
        let mut there: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()).collect();
        there.sort_by_key(std::fs::DirEntry::file_name);
        assert_eq!(there.len(), names.len(), "{names:?}");
        for (name, len, digest) in files {
            let file = std::fs::read(folder.join(name)).unwrap();
            assert!(file.len() as u64 == *len && sha256(&file) == *digest, "{name}");
        }
    }
    // Nothing may lie beside the folder.
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 2);
    std::fs::remove_dir_all(&folder).unwrap();
    unpacked.is_ok()
}
