//! How much memory this process had at most, where the system tells.

use std::fs;

/// Begins a new measurement of [`peak`].
pub(super) fn reset_peak() {
    // Where the kernel does not offer it, the peak is that of the whole run.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most bytes that were resident since the last reset.
pub(super) fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn what_is_touched_is_resident() {
        super::reset_peak();
        let before = super::peak().unwrap();
        let touched = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(super::peak().unwrap() >= before + (32 << 20));
        drop(touched);
    }
}
