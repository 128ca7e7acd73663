//! `GET /healthz`: one line of JSON for whoever watches the relay; no token needed, so it tells nothing about spaces.

use std::time::Duration;

/// Path of the health answer.
pub(super) const PATH: &str = "/healthz";

/// Returns the answer: it serves, its version, for how long.
pub(super) fn answer(uptime: Duration) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(r#"{{"status":"serving","version":"{version}","uptime_s":{}}}"#, uptime.as_secs())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_answer_is_json() {
        let text = super::answer(std::time::Duration::from_millis(61_999));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["status"], "serving");
        assert_eq!(json["uptime_s"], 61);
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    }
}
