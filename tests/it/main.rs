//! The integration tests.

mod amounts;
mod api;
mod crashers;
mod history;
mod keys;
mod kill;
mod replica;
mod salvage;
mod stores;
mod tidy;
mod vectors;
