//! The columnar kind: what many row batches say, turned by ninety degrees.
//!
//! ```text
//! head | tables: replicas, collections, names, shapes, forms | streams of the batches | of the envelopes
//!      | of the operations | one column of values for each field name
//! ```
//!
//! Row batches are what is sealed, logged and acknowledged; their bytes never change. A columnar batch carries several
//! of them, of any authors of one space, where many travel at once: backlog, catch-up, exports. A field name stands
//! there once, numbers are differences, what repeats is a run or a number in a dictionary, and values of one field lie
//! side by side, which is what a compressor wants. It is lossless: turning it back gives the same row batches, and the
//! same envelopes over them, byte for byte. So nobody has to sign, digest or log a columnar batch.
//!
//! Turning back writes row batches and hands them to [`Batch::decode`]: a columnar batch cannot say anything that a row
//! batch could not, and no second set of checks has to agree with the first. The normative text is spec/columns.md.
//! Ideas: Automerge's and bitcode's columns (runs and differences), Parquet's dictionaries, ALP's decimal floats.
//!
//! Memory: the tables; the columns, whose classes are limited in sum (spec: L-22); and the row batches, which are
//! limited in sum before they are written (spec: L-18).

mod decode;
mod encode;
pub(crate) mod field;
mod heap;
mod numbers;

use super::Batch;
use crate::envelope::Envelope;
use crate::error::{DecodeError, EncodeError};
use crate::frame::check_entry;
use bytes::Bytes;

/// The bit of the flags that says that there is an envelope over each batch.
const FLAG_ENVELOPES: u8 = 1;

/// Row batches, and perhaps the envelopes over them, that came out of one columnar batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    batches: Vec<Batch>,
    /// As many as batches, or none.
    envelopes: Vec<Envelope>,
}

impl Columns {
    /// Turns row batches of one space into columns.
    ///
    /// Costs about two microseconds per operation. It is an error to give none, batches of several spaces, or more than
    /// the limits of spec/limits.md (L-18, L-19, L-22, L-10 for all batches together). L-22 alone can hit a single batch:
    /// thousands of fields, each with values of many types. Such batches travel as they are.
    pub fn encode(batches: &[Batch]) -> Result<Bytes, EncodeError> {
        let batches: Vec<&Batch> = batches.iter().collect();
        encode::encode(&batches, None)
    }

    /// Turns row batches and the envelopes over them into columns; see `encode`.
    pub fn encode_entries(entries: &[(Envelope, Batch)]) -> Result<Bytes, EncodeError> {
        for (envelope, batch) in entries {
            // spec: K-16
            if check_entry(envelope, batch).is_err() {
                return Err(EncodeError::BadColumns { rule: "K-16" });
            }
        }
        let batches: Vec<&Batch> = entries.iter().map(|entry| &entry.1).collect();
        let envelopes: Vec<&Envelope> = entries.iter().map(|entry| &entry.0).collect();
        encode::encode(&batches, Some(&envelopes))
    }

    /// Checks a columnar batch from outside and turns it back into row batches.
    ///
    /// Errors that only the rows show (text that is not UTF-8, values that are not canonical, limits of a row batch)
    /// name the start of the columnar batch as their place.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode::decode(bytes, 0)
    }

    /// Checks a columnar batch that starts at offset `at` of something larger.
    pub(crate) fn decode_at(bytes: &[u8], at: usize) -> Result<Self, DecodeError> {
        decode::decode(bytes, at)
    }

    /// Returns the row batches, at least one.
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// Returns the envelope over each batch; empty where there are none.
    pub fn envelopes(&self) -> &[Envelope] {
        &self.envelopes
    }

    /// Returns the row batches, owned.
    pub fn into_batches(self) -> Vec<Batch> {
        self.batches
    }

    /// Returns the batches with their envelopes; none if it carries none.
    pub fn into_entries(self) -> Option<Vec<(Envelope, Batch)>> {
        (!self.envelopes.is_empty()).then(|| self.envelopes.into_iter().zip(self.batches).collect())
    }
}
