//! What an operator may choose, in one value.
//!
//! Checked where it is used: the limits have defaults for everybody, the rest is a folder, an address and three choices.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::hub::HubLimits;
use crate::log::StoreLogOptions;
use crate::serve::Limits;

/// Whether the wall clock may correct and refuse stamps (spec: R-19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockTrust {
    /// Trusted, unless the system runs systemd's time service and that has not reached a time server since boot.
    #[default]
    Auto,
    /// Trusted: something that the relay does not see keeps it right.
    Trusted,
    /// Not trusted: a machine without a clock of its own and without a time server.
    Untrusted,
}

/// Where the materialised copies of the spaces live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// A file for each space under `DIR/spaces`: a restart goes on where it stopped.
    #[default]
    Files,
    /// In memory: a restart applies the whole log again.
    Memory,
    /// Nowhere: digests are not answered.
    Off,
}

/// Settings of a relay.
#[derive(Clone, Debug)]
pub struct Config {
    /// The relay's folder: log, keys, certificate. Made if it is not there.
    pub dir: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Further host names for the certificate that is made at the first start.
    pub names: Vec<String>,
    /// Ceilings of connections and messages.
    pub limits: Limits,
    /// Ceilings of streams and spaces.
    pub hub: HubLimits,
    /// Ceilings of the log.
    pub log: StoreLogOptions,
    /// What the wall clock is worth.
    pub clock: ClockTrust,
    /// Where the copies live.
    pub copies: Copies,
}

impl Config {
    /// Returns the settings for everybody.
    pub fn new(dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            dir: dir.into(),
            listen,
            names: Vec::new(),
            limits: Limits::default(),
            hub: HubLimits::default(),
            log: StoreLogOptions::default(),
            clock: ClockTrust::default(),
            copies: Copies::default(),
        }
    }
}
