//! `SessionState`: where a session stands. The picture is the whole protocol of a connection.
//!
//! ```text
//!                 start                 connected(Hello)              Welcome
//!   Stopped ------------> Connecting ---------------------> Greeting ---------> Preparing
//!      ^                   ^      |                             |                  |
//!      | stop              |      | disconnected                | lost,            | resume
//!      | (from any state)  |      |                             | misbehaved       v
//!      |           timeout |      v                             |                 Live
//!      +--------------- Backoff <-------------------------------+------------------+
//!                                                               |
//!                      Rejected <------------ fatal Error ------+  (from Greeting, Preparing, Live)
//!                         |
//!                         +--- start ---> Connecting
//! ```
//!
//! Greeting: a connection stands and the Hello goes out first. Preparing: the Welcome is known; the driver binds the file,
//! seals what is not sealed and refolds, and nothing is pushed or handed over until it calls `resume`. Live: both
//! directions flow. Rejected: the relay says that trying again does not help; only the application leaves this state.

/// Where a session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// Nothing is wanted.
    #[default]
    Stopped,
    /// The driver was asked to connect.
    Connecting,
    /// Connected; the Welcome has not come.
    Greeting,
    /// Welcomed; the driver binds, seals and refolds.
    Preparing,
    /// Pushing and pulling.
    Live,
    /// Waiting before the next attempt.
    Backoff,
    /// Refused for good.
    Rejected,
}

impl SessionState {
    /// Returns whether a connection stands.
    pub const fn is_connected(self) -> bool {
        matches!(self, Self::Greeting | Self::Preparing | Self::Live)
    }

    /// Returns whether the Welcome has come on the present connection.
    pub const fn is_welcomed(self) -> bool {
        matches!(self, Self::Preparing | Self::Live)
    }
}
