//! The sync crate through its public door: merge laws, stored forms, sealing, and sessions with a fake relay.

mod histories;
mod laws;
mod make;
mod random;
mod relay;
mod sealing;
mod session;
mod stored;
mod world;
