//! Who has a say on the way to a file: whoever may exchange a folder on it decides what is found there.

use std::path::Path;

use crate::HubError;

/// Refuses a path on whose way somebody other than this user and the system has a say: by owning a folder or a link,
/// or by the right to write to a folder. Only a folder on the way may be open to all, and only if each has to leave
/// alone there what is others' (the sticky bit, as of `/tmp`). What does not exist yet, or can't be reached, is not
/// looked at: ask again once it is there.
///
/// # Errors
/// [`HubError::Untrusted`] with the place, and what the system answers otherwise.
#[cfg(unix)]
pub fn check_owners(path: &Path) -> Result<(), HubError> {
    use std::fs;
    use std::io::ErrorKind;
    use std::path::PathBuf;

    /// As the system itself has it.
    const LINKS_MAX: usize = 40;
    let looked = |at: &Path, error| HubError::io("look at", at, error);
    let parts_of = |path: &Path| path.iter().rev().map(std::ffi::OsStr::to_owned).collect::<Vec<_>>();
    let mut parts = parts_of(&std::path::absolute(path).map_err(|error| looked(path, error))?);
    // Without links, so that `..` is the folder above.
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(part) = parts.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        at.push(part);
        let meta = match fs::symlink_metadata(&at) {
            Ok(meta) => meta,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(looked(&at, error)),
        };
        if let Some(reason) = objection(&meta, parts.is_empty()) {
            return Err(HubError::Untrusted { path: at, reason });
        }
        if meta.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(looked(path, std::io::Error::other("its links lead on and on")));
            }
            let target = fs::read_link(&at).map_err(|error| looked(&at, error))?;
            at.pop();
            parts.extend(parts_of(&target));
        }
    }
    Ok(())
}

/// Files have no owners here.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn check_owners(_path: &Path) -> Result<(), HubError> {
    Ok(())
}

/// What speaks against a folder, a file or a link.
#[cfg(unix)]
fn objection(meta: &std::fs::Metadata, is_last: bool) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    const STICKY: u32 = 0o1000;
    let own = rustix::process::geteuid().as_raw();
    let (mode, owner) = (meta.mode() & 0o7777, meta.uid());
    if owner != own && owner != 0 && !is_unmapped(owner) {
        return Some(format!("it belongs to user {owner}, and this is user {own}"));
    }
    // A group that is this user's own has no others in it. The rights of a link say nothing.
    let group_writes = mode & 0o020 != 0 && meta.gid() != rustix::process::getegid().as_raw();
    let others_write = !meta.is_symlink() && (mode & 0o002 != 0 || group_writes);
    let kept_apart = meta.is_dir() && !is_last && mode & STICKY != 0;
    (others_write && !kept_apart)
        .then(|| format!("it belongs to user {owner}, and others may write to it (its mode is {mode:o})"))
}

/// True in a container that knows few users, for the one that stands for all it does not know: the system's own folders
/// belong to that one there.
#[cfg(unix)]
fn is_unmapped(user: u32) -> bool {
    const OVERFLOW: u32 = 65_534;
    let knows_all = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    user == OVERFLOW && std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !knows_all(map))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    use super::*;

    const STRANGER: u32 = 12_345;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(path: &Path) -> String {
        let error = check_owners(path).unwrap_err();
        assert!(matches!(error, HubError::Untrusted { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("LEVAIN_HOME"));
        error.to_string()
    }

    #[test]
    fn what_others_may_write_to_is_refused_but_for_a_sticky_folder_on_the_way() {
        let root = tempfile::tempdir().unwrap();
        let shared = root.path().join("shared");
        let own = shared.join("own");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("file"), "x").unwrap();
        check_owners(&own.join("file")).unwrap();
        check_owners(&own.join("not/there/yet")).unwrap();
        mode(&shared, 0o777);
        let told = refusal(&own);
        assert!(told.contains("shared is not trusted") && told.contains("mode is 777"), "{told}");
        mode(&shared, 0o1777);
        check_owners(&own.join("file")).unwrap();
        // In the folder itself others could leave files.
        assert!(refusal(&shared).contains("1777"));
        mode(&own.join("file"), 0o666);
        assert!(refusal(&own.join("file")).contains("file is not trusted"));
        mode(&own.join("file"), 0o664);
        // A group is this user's own, or others.
        check_owners(&own.join("file")).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(own.join("file"), None, Some(STRANGER)).unwrap();
            assert!(refusal(&own.join("file")).contains("664"));
        }
    }

    #[test]
    fn each_link_on_the_way_is_followed_and_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let (open, own) = (root.path().join("open"), root.path().join("own"));
        fs::create_dir_all(own.join("store")).unwrap();
        fs::create_dir(&open).unwrap();
        symlink("../own/store", open.join("second")).unwrap();
        symlink(open.join("second"), root.path().join("first")).unwrap();
        check_owners(&root.path().join("first")).unwrap();
        // Neither the path as written nor the one that it ends at shows the folder of the link between.
        mode(&open, 0o777);
        assert!(refusal(&root.path().join("first")).contains("open is not trusted"));
        mode(&open, 0o755);
        symlink("round", root.path().join("round")).unwrap();
        assert!(matches!(check_owners(&root.path().join("round")), Err(HubError::Io { .. })));
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let foreign = root.path().join("foreign");
        fs::create_dir_all(foreign.join("store")).unwrap();
        symlink(root.path(), root.path().join("link")).unwrap();
        check_owners(&foreign.join("store")).unwrap();
        chown(&foreign, Some(STRANGER), None).unwrap();
        let told = refusal(&foreign.join("store"));
        assert!(told.contains("foreign is not trusted") && told.contains("user 12345"), "{told}");
        lchown(root.path().join("link"), Some(STRANGER), None).unwrap();
        assert!(refusal(&root.path().join("link/x")).contains("link is not trusted"));
    }
}
