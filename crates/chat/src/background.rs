//! Work that others should not have to wait for.

/// Lowers the priority of the calling thread, for good, beneath that of threads which let answers grow: what is done
/// here for one request then slows the others' answers less. Elsewhere than on Linux, where priorities belong to
/// processes, it does nothing.
pub fn into_background() {
    #[cfg(target_os = "linux")]
    {
        use std::cell::Cell;

        /// A quarter of the time of a thread that was not lowered, where they compete.
        const NICE: i32 = 6;
        thread_local!(static LOWERED: Cell<bool> = const { Cell::new(false) });
        if !LOWERED.replace(true) {
            // To go down is always allowed; where it is not, nothing is lost.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_asks_is_lowered() {
        let priority =
            || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap_or_default();
        let before = priority();
        let lowered = std::thread::spawn(move || {
            into_background();
            into_background();
            priority()
        });
        assert_eq!((lowered.join().unwrap(), priority()), (before.max(6), before));
    }
}
