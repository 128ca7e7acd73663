//! Who reads what: the newest published layers and the register of views.

use std::io;
use std::sync::{Arc, Weak};

use crate::change::{Commit, FeedQueue};
use crate::memtable::Mem;
use crate::pager::{Page, PageError, PageKind, PageRead, PageRef};
use crate::snapshot::{Layers, Root};
use crate::store::Inner;
use crate::sync::atomic::Ordering;
use crate::txn::view::{Held, PastHeld};

/// How often closing tries to end a view that is being read from, 20 ms each.
const CLOSE_TRIES: usize = 50;

/// Held for nanoseconds; never while anything is read or written.
pub(crate) struct Visible {
    pub(crate) layers: Arc<Layers>,
    pub(crate) log: LogAt,
    pub(crate) feeds: Vec<Weak<FeedQueue>>,
    readers: Vec<Weak<Held>>,
    /// Views out of which an older commit is read, by slot, and that commit.
    pub(crate) past: Vec<(usize, u64)>,
    free: Vec<usize>,
}

/// Where the log stood when the layers were published.
#[derive(Clone, Copy, Default)]
pub(crate) struct LogAt {
    pub(crate) durable_commit: u64,
    /// Bytes of this generation up to its tail.
    pub(crate) tail: u64,
    /// Bytes of all log files.
    pub(crate) files: u64,
}

/// The root of a checkpoint, for somebody who reads its pages themselves: what the layers of a view show may move to
/// another root, and then the pages of the first one are used again.
pub(crate) struct KeptRoot {
    held: Arc<Held>,
    pub(crate) root: Arc<Root>,
}

impl KeptRoot {
    /// Whether it held too much of the file, or the store was closed; then its pages may be somebody else's.
    pub(crate) fn has_ended(&self) -> bool {
        self.held.layers().is_none()
    }

    /// Whether it is this that keeps it.
    pub(crate) fn is(&self, held: &Arc<Held>) -> bool {
        Arc::ptr_eq(&self.held, held)
    }
}

impl PageRead for KeptRoot {
    fn body_bytes(&self) -> usize {
        self.root.body_bytes()
    }

    /// A copy: the page stays what it is no longer than it takes to read it.
    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        let ended =
            || PageError::Io { during: "reading a root that is kept", source: io::Error::other("it has ended") };
        self.held.while_it_lasts(|| self.root.page(at, kind).map(Page::into_owned)).unwrap_or_else(|| Err(ended()))
    }
}

impl Visible {
    pub(crate) fn new(layers: Arc<Layers>, log: LogAt) -> Self {
        Self { layers, log, feeds: Vec::new(), readers: Vec::new(), past: Vec::new(), free: Vec::new() }
    }

    /// Makes a view known. Its slot is taken before it exists, so that it is never unknown.
    fn register(&mut self, view: impl FnOnce(usize) -> Held) -> Arc<Held> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.readers.push(Weak::new());
            self.readers.len() - 1
        });
        let held = Arc::new(view(slot));
        self.readers[slot] = Arc::downgrade(&held);
        held
    }

    fn unregister(&mut self, slot: usize) {
        self.readers[slot] = Weak::new();
        self.free.push(slot);
    }

    /// Returns the views that are open.
    pub(crate) fn readers(&self) -> Vec<Arc<Held>> {
        self.readers.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Inner {
    pub(crate) fn published(&self) -> Arc<Layers> {
        Arc::clone(&self.visible.lock().layers)
    }

    pub(crate) fn published_no(&self) -> u64 {
        self.visible.lock().layers.commit_no()
    }

    /// Registers a view of the newest published layers.
    pub(crate) fn register_reader(self: &Arc<Self>) -> Arc<Held> {
        self.register_newest(&mut self.visible.lock())
    }

    fn register_newest(self: &Arc<Self>, visible: &mut Visible) -> Arc<Held> {
        let layers = Arc::clone(&visible.layers);
        let commit_no = layers.commit_no();
        let layers = (!self.is_closed()).then_some(layers);
        visible.register(|slot| Held::new(self, layers, commit_no, slot))
    }

    /// Registers another view of what a view shows.
    pub(crate) fn register_reader_of(self: &Arc<Self>, layers: Option<Arc<Layers>>, commit_no: u64) -> Arc<Held> {
        self.visible.lock().register(|slot| Held::new(self, layers, commit_no, slot))
    }

    /// Keeps the newest root as it is on the disk. `None`: the store is closed.
    pub(crate) fn keep_root(self: &Arc<Self>) -> Option<KeptRoot> {
        let mut visible = self.visible.lock();
        let root = Arc::clone(&visible.layers.root);
        if self.is_closed() {
            return None;
        }
        let commit_no = root.commit_no;
        let layers = Layers { root: Arc::clone(&root), frozen: None, active: Arc::new(Mem::empty_at(commit_no, 0)) };
        let held = visible.register(|slot| Held::of_root(self, Some(Arc::new(layers)), commit_no, slot));
        Some(KeptRoot { held, root })
    }

    /// Registers a view out of which an older commit is read. Whoever sees that there is one sees for what: else its layers
    /// could be exchanged for some out of which that commit has gone.
    pub(crate) fn register_past_reader(self: &Arc<Self>, commit_no: u64) -> PastHeld {
        let mut visible = self.visible.lock();
        let held = self.register_newest(&mut visible);
        visible.past.push((held.slot, commit_no));
        drop(visible);
        PastHeld { held, commit_no }
    }

    pub(crate) fn unregister_past(&self, slot: usize) {
        self.visible.lock().past.retain(|&(its, _)| its != slot);
    }

    pub(crate) fn unregister_reader(&self, slot: usize) {
        self.visible.lock().unregister(slot);
    }

    /// Makes layers visible, and tells the feeds what they have new.
    pub(crate) fn publish(&self, layers: Layers, log: Option<LogAt>, told: &[Commit]) {
        let mut visible = self.visible.lock();
        let old = std::mem::replace(&mut visible.layers, Arc::new(layers));
        visible.log = log.unwrap_or(visible.log);
        if !visible.feeds.is_empty() {
            visible.feeds.retain(|feed| match feed.upgrade() {
                Some(queue) => {
                    told.iter().for_each(|commit| queue.push(commit));
                    true
                }
                None => false,
            });
            self.feed_count.store(visible.feeds.len() as u32, Ordering::Release);
        }
        drop(visible);
        // Freed outside the lock: these layers may be the last to hold many old nodes.
        drop(old);
    }

    /// Tells the feeds that there was a commit that nobody lists.
    pub(crate) fn tell_missed(&self) {
        let visible = self.visible.lock();
        visible.feeds.iter().filter_map(Weak::upgrade).for_each(|queue| queue.miss());
    }

    pub(crate) fn has_feeds(&self) -> bool {
        self.feed_count.load(Ordering::Acquire) + self.subscribing.load(Ordering::Acquire) > 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends all views: behind a released lock another process may use their pages for something else. False: one is
    /// being read from by somebody who does not come to an end.
    pub(crate) fn close_views(&self) -> bool {
        let readers = {
            let visible = self.visible.lock();
            // Set under the lock under which views are registered: none comes into being behind this.
            self.closed.store(true, Ordering::Release);
            visible.readers()
        };
        readers.iter().all(|reader| (0..CLOSE_TRIES).any(|_| reader.exchange(None)))
    }

    pub(crate) fn close_feeds(&self) {
        let mut visible = self.visible.lock();
        for queue in visible.feeds.drain(..).filter_map(|feed| feed.upgrade()) {
            queue.close();
        }
    }
}
