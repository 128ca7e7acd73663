//! The store's one thread of its own, which writes checkpoints while commits go on, and gives back what the file does not
//! need.
//!
//! A world that is simulated has none (`Env::threads` is false): there the commit that makes a checkpoint due
//! writes it, so that one seed repeats one order of calls.

use std::sync::Arc;
use std::time::Duration;

use crate::store::Inner;
use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{Condvar, Mutex};

#[derive(Default)]
pub(crate) struct Background {
    wishes: Mutex<Wishes>,
    news: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Wishes {
    /// The process that has the thread. One that is forked from it has none.
    running: Option<u32>,
    checkpoint: bool,
    stop: bool,
}

impl Background {
    /// Starts the thread; without one, checkpoints are written by committing callers.
    pub(crate) fn start(inner: &Arc<Inner>) -> std::io::Result<()> {
        let own = Arc::clone(inner);
        inner.background.wishes.lock().running = Some(std::process::id());
        let thread = Builder::new().name("blaze-checkpoint".into()).spawn(move || work(&own));
        match thread {
            Ok(thread) => {
                *inner.background.thread.lock() = Some(thread);
                Ok(())
            }
            Err(error) => {
                inner.background.wishes.lock().running = None;
                Err(error)
            }
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.wishes.lock().running == Some(std::process::id())
    }

    pub(crate) fn request(&self) {
        self.wishes.lock().checkpoint = true;
        self.news.notify_one();
    }

    /// Waits until the thread has ended. Returns at once where there is none.
    pub(crate) fn stop(&self) {
        let is_here = self.is_running();
        let thread = self.thread.lock().take().filter(|_| is_here);
        self.wishes.lock().stop = true;
        self.news.notify_one();
        if let Some(thread) = thread {
            // A panic of the thread has poisoned the store; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// For how long the thread leaves the disk to others.
pub(crate) struct Pause(pub(crate) Duration);

fn work(inner: &Arc<Inner>) {
    /// Says that the thread is gone, also when it panics.
    struct Gone<'i>(&'i Inner);
    impl Drop for Gone<'_> {
        fn drop(&mut self) {
            self.0.background.wishes.lock().running = None;
            self.0.turn.notify_all();
        }
    }
    let _gone = Gone(inner);
    let mut pause = None;
    loop {
        let is_wanted = {
            let mut wishes = inner.background.wishes.lock();
            match pause {
                None => inner.background.news.wait_while(&mut wishes, |w| !w.checkpoint && !w.stop),
                // Woken early it goes on early, which harms nobody.
                Some(Pause(time)) if !wishes.checkpoint && !wishes.stop => {
                    inner.background.news.wait_for(&mut wishes, time);
                }
                Some(_) => {}
            }
            if wishes.stop {
                return;
            }
            std::mem::take(&mut wishes.checkpoint)
        };
        if is_wanted {
            // An error is told where it matters: a full disk to the commits that wait for room, all else by poison.
            let _ = inner.checkpoint();
            // Commits that came meanwhile may have made the next one due, and none may come to say so.
            inner.checkpoint_if_due();
        }
        pause = inner.auto_vacuum();
    }
}
