//! Ctrl-C and SIGTERM as a flag that loops look at.
//!
//! The handler only raises the flag; whoever holds files or a child process lets go of them in the ordinary way, by
//! returning. A second Ctrl-C ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::failure::Failure;

/// Whether somebody asked the program to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Starts listening for Ctrl-C and SIGTERM on a thread of its own.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let flag = Self::default();
        let raised = flag.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::io("cannot prepare for Ctrl-C", &e))?;
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    wait().await;
                    raised.0.store(true, Ordering::SeqCst);
                    wait().await;
                    std::process::exit(i32::from(super::exit::INTERRUPTED));
                });
            })
            .map_err(|e| Failure::io("cannot start a thread", &e))?;
        Ok(flag)
    }

    /// Returns whether to stop.
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Turns a raised flag into the failure that ends the command.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.is_raised() { Err(Failure::interrupted()) } else { Ok(()) }
    }
}

/// Resolves at the next Ctrl-C or SIGTERM; never, if the system lets us listen to neither.
pub(crate) async fn wait() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_ok() {
        return;
    }
    std::future::pending::<()>().await;
}
