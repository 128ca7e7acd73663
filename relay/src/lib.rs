//! BlazeDB relay.
