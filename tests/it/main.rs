//! The integration tests.

mod crashers;
mod tidy;
