//! Where there are no modes to keep.

/// The terminal.
#[derive(Debug, Clone)]
pub(crate) struct Terminal;

impl Terminal {
    pub(crate) fn open() -> Option<Self> {
        super::is_interactive().then_some(Self)
    }

    pub(super) fn keep_keys(&self) {}

    pub(super) fn release_keys(&self) {}
}

pub(crate) fn restore() {}

pub(crate) fn end(code: u8) -> ! {
    std::process::exit(i32::from(code))
}
