//! Ctrl-C and SIGTERM as a flag that loops look at.
//!
//! The handler only raises the flag; whoever holds files or a child process lets go of them in the ordinary way, by
//! returning. Where nothing looks at a flag (the library writes a backup at the pace that it was given), [`on_stop`] lets go
//! of them itself. A second Ctrl-C ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::exit;
use super::failure::Failure;

/// Whether somebody asked the program to stop: the exit code that says how, or 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopFlag(Arc<AtomicU8>);

impl StopFlag {
    /// Starts listening for Ctrl-C and SIGTERM on a thread of its own.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let flag = Self::default();
        let raised = flag.clone();
        on_stop(move |code| raised.0.store(code, Ordering::SeqCst))?;
        Ok(flag)
    }

    /// Returns whether to stop.
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }

    /// Turns a raised flag into the failure that ends the command.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.is_raised() { Err(self.interrupted()) } else { Ok(()) }
    }

    /// The failure of a command that a raised flag ended.
    pub(crate) fn interrupted(&self) -> Failure {
        Failure::interrupted(self.0.load(Ordering::SeqCst))
    }
}

/// Calls `first` at the first Ctrl-C or SIGTERM, on a thread of its own, with the exit code that says which one it was. A
/// second one ends the process. Neither does so before, once this returned.
pub(crate) fn on_stop(first: impl FnOnce(u8) + Send + 'static) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::io("cannot prepare for Ctrl-C", &e))?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::register()
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            first(signals.next().await);
            std::process::exit(i32::from(signals.next().await));
        });
    });
    thread.map(drop).map_err(|e| Failure::io("cannot start a thread", &e))
}

/// Resolves at the next Ctrl-C or SIGTERM; never, if the system lets us listen to neither.
pub(crate) async fn wait() {
    Signals::register().next().await;
}

/// What asks the program to stop; `None`: the system does not let us listen.
struct Signals {
    #[cfg(unix)]
    both: Option<(tokio::signal::unix::Signal, tokio::signal::unix::Signal)>,
}

impl Signals {
    /// Begins to listen, within a runtime.
    fn register() -> Self {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let both = signal(SignalKind::interrupt()).ok().zip(signal(SignalKind::terminate()).ok());
            Self { both }
        }
        #[cfg(not(unix))]
        Self {}
    }

    /// Resolves to the exit code of what came.
    async fn next(&mut self) -> u8 {
        #[cfg(unix)]
        if let Some((interrupt, terminate)) = &mut self.both {
            return tokio::select! {
                _ = interrupt.recv() => exit::INTERRUPTED,
                _ = terminate.recv() => exit::TERMINATED,
            };
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_ok() {
            return exit::INTERRUPTED;
        }
        std::future::pending().await
    }
}
