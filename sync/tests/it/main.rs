//! The sync crate through its public door: merge laws, stored forms, sealing, and sessions with a fake relay.

mod laws;
mod make;
mod random;
mod sealing;
mod stored;
