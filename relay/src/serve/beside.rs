//! A future that has much to do beside one that is rarely due.
//!
//! `select!` would poll both each time their task is woken, which for a connection is twice for each handful of messages; and whether
//! the relay goes down, which is asked then too, is a lock that all connections share. Here the rare one has a waker of its
//! own, and is polled when that was woken.
//!
//! What was tried with it and given up: the same for the streams of hyper, each of which wakes itself once for a DATA frame (it asks to
//! hear of a reset, then reserves a byte, and h2 takes the waker that was left for the one to tell of the other), for which the
//! runtime wakes a second thread. Without that, eight connections cost 3 % less, and one 5 % more: answers left one by one
//! that had left in twos (2026-11-27).

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// Which of the two is over.
pub(super) enum First<B, R> {
    Busy(B),
    Rare(R),
}

/// Waits for either, polling the rare one only when it was woken itself. Costs one small allocation.
pub(super) async fn beside<B: Future, R: Future>(mut busy: Pin<&mut B>, rare: R) -> First<B::Output, R::Output> {
    let mut rare = pin!(rare);
    let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: Mutex::new(None) });
    let waker = Waker::from(Arc::clone(&bell));
    let mut task: Option<Waker> = None;
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(output) = busy.as_mut().poll(cx) {
            return Poll::Ready(First::Busy(output));
        }
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            task = Some(cx.waker().clone());
            bell.task.lock().clone_from(&task);
        }
        // Whoever rings after this look wakes the task that was noted above.
        if !bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        bell.rung.store(false, Ordering::Release);
        rare.as_mut().poll(&mut Context::from_waker(&waker)).map(First::Rare)
    })
    .await
}

/// Remembers that the rare future was woken, and wakes the task of both.
struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        if let Some(task) = &*self.task.lock() {
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rare_one_is_polled_when_it_is_due_and_not_in_between() {
        let polls = Cell::new(0);
        let rung = Arc::new(Notify::new());
        let ring = Arc::clone(&rung);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ring.notify_one();
        });
        let mut busy = pin!(async {
            for _ in 0..1_000 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let counted = || {
            let mut notified = Box::pin(rung.notified());
            let polls = &polls;
            std::future::poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                notified.as_mut().poll(cx)
            })
        };
        let First::Rare(()) = beside(busy.as_mut(), counted()).await else { panic!("it was rung") };
        assert_eq!(polls.get(), 2, "at first, and when it was rung");
        let First::Busy(()) = beside(busy.as_mut(), counted()).await else { panic!("nobody rings again") };
        assert_eq!(polls.get(), 3);
    }

    #[tokio::test]
    async fn whoever_moves_to_another_task_is_woken_there() {
        let rung = Arc::new(Notify::new());
        let waits = Arc::clone(&rung);
        let mut both = Box::pin(async move {
            let mut busy = pin!(std::future::pending::<()>());
            beside(busy.as_mut(), waits.notified()).await;
        });
        std::future::poll_fn(|cx| {
            assert!(both.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let moved = tokio::spawn(async move {
            tokio::task::yield_now().await;
            both.await;
        });
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        rung.notify_one();
        tokio::time::timeout(Duration::from_secs(10), moved).await.unwrap().unwrap();
    }
}
