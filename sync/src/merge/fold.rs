//! `fold`: the base of a document with own unsequenced operations on top, which is what a replica shows.

use super::{OpContext, apply};
use crate::record::DocState;

/// Returns `base` with this file's own unsequenced operations on the document applied in the order of their writing.
///
/// This is also the *refold* after the base moved under them or their stamps were replaced by sealing. If the log goes on
/// with exactly these operations, the base ends up with the same fields.
pub fn fold<'a>(base: &DocState, own: impl IntoIterator<Item = OpContext<'a>>) -> DocState {
    // spec: M-14
    let mut state = None;
    for op in own {
        let op = OpContext { seq: 0, ..op };
        if let Some(next) = apply(state.as_ref().unwrap_or(base), &op).state {
            state = Some(next);
        }
    }
    state.unwrap_or_else(|| base.clone())
}
