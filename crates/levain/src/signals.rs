//! The one owner of signals. Whoever can be interrupted waits here for Ctrl-C; while nobody waits, Ctrl-C ends the
//! program. The line editor has no handler of its own: at its prompt Ctrl-C is a key.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::error::{CliError, INTERRUPTED};
use crate::printer::Printer;
use crate::terminal::{self, Terminal};

/// The owner.
pub(crate) struct Signals {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

#[derive(Default)]
struct Shared {
    waiting: AtomicUsize,
    interrupt: Arc<Notify>,
}

impl Signals {
    /// Takes Ctrl-C over, for the rest of the program's life.
    pub(crate) fn own(runtime: &Runtime, printer: Printer) -> Result<Self, CliError> {
        let shared = Arc::new(Shared::default());
        let owner = Arc::clone(&shared);
        let _context = runtime.enter();
        let mut interrupts = system::Interrupts::listen()?;
        runtime.spawn(async move {
            while interrupts.next().await {
                if owner.waiting.load(Ordering::SeqCst) == 0 {
                    terminal::restore();
                    printer.error(&CliError::Interrupted);
                    terminal::end(INTERRUPTED);
                }
                owner.interrupt.notify_waiters();
            }
        });
        Ok(Self { shared, runtime: runtime.handle().clone() })
    }

    /// Ready at the next Ctrl-C after this call.
    pub(crate) fn interrupted(&self) -> impl Future<Output = ()> + use<> {
        // A notification counts from here on and not from the first poll.
        let notified = Arc::clone(&self.shared.interrupt).notified_owned();
        let waiting = Waiting::new(&self.shared);
        async move {
            let _waiting = waiting;
            notified.await;
        }
    }

    /// Takes over, too, what would end or stop the program and leave this terminal in a mode of ours.
    pub(crate) fn guard(&self, terminal: &Terminal) -> Result<(), CliError> {
        let _context = self.runtime.enter();
        self.runtime.spawn(system::guard(terminal.clone())?);
        Ok(())
    }
}

/// One who waits for Ctrl-C.
struct Waiting(Arc<Shared>);

impl Waiting {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

fn failed(error: std::io::Error) -> CliError {
    CliError::Internal(format!("signals can't be handled: {error}"))
}

#[cfg(unix)]
mod system {
    use std::future::Future;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    use super::failed;
    use crate::error::CliError;
    use crate::terminal::{self, Terminal};

    pub(super) struct Interrupts(Signal);

    impl Interrupts {
        pub(super) fn listen() -> Result<Self, CliError> {
            signal(SignalKind::interrupt()).map(Self).map_err(failed)
        }

        pub(super) async fn next(&mut self) -> bool {
            self.0.recv().await.is_some()
        }
    }

    pub(super) fn guard(terminal: Terminal) -> Result<impl Future<Output = ()>, CliError> {
        let listen = |kind| signal(kind).map_err(failed);
        let mut hangup = listen(SignalKind::hangup())?;
        let mut quit = listen(SignalKind::quit())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let mut stop = listen(SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw()))?;
        let mut resume = listen(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?;
        Ok(async move {
            // As shells count: 128 and the signal's number.
            let code = loop {
                tokio::select! {
                    Some(()) = hangup.recv() => break 129,
                    Some(()) = quit.recv() => break 131,
                    Some(()) = terminate.recv() => break 143,
                    Some(()) = stop.recv() => terminal.stop(),
                    Some(()) = resume.recv() => terminal.resume(),
                    else => return,
                }
            };
            terminal::end(code);
        })
    }
}

#[cfg(not(unix))]
mod system {
    use std::future::{Future, ready};

    use crate::error::CliError;
    use crate::terminal::Terminal;

    pub(super) struct Interrupts;

    impl Interrupts {
        #[expect(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
        pub(super) fn listen() -> Result<Self, CliError> {
            Ok(Self)
        }

        pub(super) async fn next(&mut self) -> bool {
            tokio::signal::ctrl_c().await.is_ok()
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
    pub(super) fn guard(_terminal: Terminal) -> Result<impl Future<Output = ()>, CliError> {
        Ok(ready(()))
    }
}
