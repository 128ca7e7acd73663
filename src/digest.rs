//! The digest of a database: equal for equal documents, whatever order they came in.
//!
//! SHA-256 over, for each collection with live documents ascending by name, for each live document ascending by id:
//! uvarint length and name of the collection | id | shape | uvarint length and row body (spec: D-5).

use blazedb_engine::ReadView;
use blazedb_sync::DocState;
use blazedb_wire::writer::put_prefixed;
use sha2::{Digest, Sha256};

use crate::inner::Inner;
use crate::transaction::decode_state;
use crate::{Error, layout};

/// Returns the digest of every live document of a snapshot, and how many there are.
pub(crate) fn digest(inner: &Inner, view: &ReadView) -> Result<([u8; 32], u64), Error> {
    let mut collections: Vec<String> =
        view.tree_names()?.iter().filter_map(|tree| layout::collection_of(tree).map(str::to_owned)).collect();
    collections.sort_unstable();
    let mut hash = Sha256::default();
    let mut documents = 0;
    let mut head = Vec::new();
    for collection in collections {
        let Some(tree) = view.tree(&layout::records_tree(&collection))? else { continue };
        for item in view.range(tree, ..) {
            let (key, value) = item?;
            let DocState::Live(record) = decode_state(Some(&value), inner)? else { continue };
            documents += 1;
            head.clear();
            put_prefixed(&mut head, collection.as_bytes());
            head.extend_from_slice(&key);
            record.row.shape().encode(&mut head);
            blazedb_wire::varint::put_uvarint(&mut head, record.row.body().len() as u64);
            hash.update(&head);
            hash.update(record.row.body());
        }
    }
    Ok((hash.finalize().into(), documents))
}
