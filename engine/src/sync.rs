//! Locks, atomics and threads: the engine takes them from here, and from nowhere else.
//!
//! As a rule these are parking_lot's and the standard library's own, re-exported. In a build with `--cfg shuttle` they
//! are shuttle's, in the same shapes: there one schedule of threads after the other is tried out, every lock and every
//! atomic access being a place where another thread may go on. `tests/schedules.rs` has the scenarios,
//! `.ci/schedules` runs them.
//!
//! Not taken from here: `Arc`, which is not a place to wait; filters, slots and segments of `memtable`, which one thread
//! writes; `env`, whose locks are never held where another thread could go on.

#[cfg(not(shuttle))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{OnceLock, atomic};
#[cfg(not(shuttle))]
pub(crate) use std::thread;

#[cfg(shuttle)]
pub(crate) use self::scheduled::{Condvar, Mutex, MutexGuard, OnceLock, RwLock};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{RwLockReadGuard, atomic};
#[cfg(shuttle)]
pub(crate) use shuttle::thread;

/// parking_lot's shapes over shuttle's locks: no poisoning, guards that a condition variable borrows.
#[cfg(shuttle)]
mod scheduled {
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;
    use std::time::Duration;

    use shuttle::sync::{self, RwLockReadGuard, RwLockWriteGuard};

    #[derive(Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    pub(crate) struct MutexGuard<'m, T> {
        mutex: &'m Mutex<T>,
        /// `None` while it is given away: in `unlocked` and in a condition variable.
        guard: Option<sync::MutexGuard<'m, T>>,
    }

    const GIVEN_AWAY: &str = "whoever has given the guard away has this one borrowed";

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard { mutex: self, guard: Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)) }
        }
    }

    impl<'m, T> MutexGuard<'m, T> {
        pub(crate) fn unlocked<R>(this: &mut Self, f: impl FnOnce() -> R) -> R {
            drop(this.guard.take());
            let result = f();
            this.guard = this.mutex.lock().guard;
            result
        }

        /// Gives the inner guard to `f`, which gives it back.
        fn lend(&mut self, f: impl FnOnce(sync::MutexGuard<'m, T>) -> sync::LockResult<sync::MutexGuard<'m, T>>) {
            let guard = self.guard.take().expect(GIVEN_AWAY);
            self.guard = Some(f(guard).unwrap_or_else(PoisonError::into_inner));
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.guard.as_ref().expect(GIVEN_AWAY)
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.guard.as_mut().expect(GIVEN_AWAY)
        }
    }

    /// A wait with a limit never ends by itself, as time does not pass: whoever counts on his limit is found out.
    #[derive(Default)]
    pub(crate) struct Condvar(sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            guard.lend(|guard| self.0.wait(guard));
        }

        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _limit: Duration) {
            self.wait(guard);
        }

        pub(crate) fn wait_while<T>(&self, guard: &mut MutexGuard<'_, T>, mut condition: impl FnMut(&mut T) -> bool) {
            while condition(guard) {
                self.wait(guard);
            }
        }

        pub(crate) fn wait_while_for<T>(
            &self,
            guard: &mut MutexGuard<'_, T>,
            condition: impl FnMut(&mut T) -> bool,
            _limit: Duration,
        ) {
            self.wait_while(guard, condition);
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    pub(crate) struct RwLock<T>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn read_recursive(&self) -> RwLockReadGuard<'_, T> {
            self.read()
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }

        /// Tries once: that others are faster for as long as the limit is one of the schedules.
        pub(crate) fn try_write_for(&self, _limit: Duration) -> Option<RwLockWriteGuard<'_, T>> {
            self.0.try_write().ok()
        }
    }

    /// The standard library's, with a place to switch threads before every look.
    pub(crate) struct OnceLock<T> {
        value: std::sync::OnceLock<T>,
        switch: sync::atomic::AtomicBool,
    }

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self::new()
        }
    }

    impl<T> OnceLock<T> {
        pub(crate) const fn new() -> Self {
            Self { value: std::sync::OnceLock::new(), switch: sync::atomic::AtomicBool::new(false) }
        }

        fn switch(&self) {
            self.switch.load(sync::atomic::Ordering::SeqCst);
        }

        pub(crate) fn get(&self) -> Option<&T> {
            self.switch();
            self.value.get()
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            self.switch();
            self.value.set(value)
        }

        pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
            self.switch();
            self.value.get_or_init(init)
        }
    }
}
