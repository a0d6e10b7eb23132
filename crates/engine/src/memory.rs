//! How much memory this process may still use.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that can be allocated now without swapping: what the system has available, and what the limits of the
/// control groups around this process leave of it. `None` where neither can be read.
pub fn free_memory() -> Option<u64> {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    available.into_iter().chain(cgroup_free(&groups, Path::new("/sys/fs/cgroup"))).min()
}

/// The `MemAvailable` line, in bytes.
fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the tightest control group leaves. `groups` is `/proc/self/cgroup`: a line `0::/path` for version 2, lines
/// `n:memory:/path` for version 1. A container often sees its own group at the root of the mount whatever the path
/// says, so that place is looked at too.
fn cgroup_free(groups: &str, mount: &Path) -> Option<u64> {
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, limit, usage, reclaimable) = if controllers.is_empty() {
            (mount.to_path_buf(), "memory.max", "memory.current", "inactive_file ")
        } else if controllers.split(',').any(|name| name == "memory") {
            (mount.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        } else {
            continue;
        };
        let mut group: PathBuf = root.join(path.trim_start_matches('/'));
        loop {
            least = least.into_iter().chain(group_free(&group, limit, usage, reclaimable)).min();
            if group == root || !group.pop() || !group.starts_with(&root) {
                break;
            }
        }
    }
    least
}

/// Limit minus use of one group; pages of files count as free because the kernel drops them first.
fn group_free(group: &Path, limit: &str, usage: &str, reclaimable: &str) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number(limit)?;
    let used = number(usage)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix(reclaimable)?.trim().parse::<u64>().ok());
    Some(limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        assert_eq!(mem_available("MemTotal: 10 kB\nMemAvailable:    2048 kB\n"), Some(2048 * 1024));
        assert_eq!(mem_available("MemTotal: 10 kB\n"), None);
        assert_eq!(mem_available("MemAvailable: many kB\n"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let mount = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/memory.current", "300\n");
        write("a/memory.stat", "anon 200\ninactive_file 100\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "300\n");
        assert_eq!(cgroup_free("0::/a/b\n", mount.path()), Some(800));
        write("memory/x/memory.limit_in_bytes", "500\n");
        write("memory/x/memory.usage_in_bytes", "100\n");
        assert_eq!(cgroup_free("7:memory,cpu:/x\n0::/a/b\n", mount.path()), Some(400));
        assert_eq!(cgroup_free("3:cpu:/x\nnonsense\n", mount.path()), None);
        // A path that this container cannot see falls back to the root of the mount.
        write("memory.max", "50\n");
        write("memory.current", "20\n");
        assert_eq!(cgroup_free("0::/host/path/of/container\n", mount.path()), Some(30));
    }
}
