//! The numbers of a demo and the table at its end.

use std::time::Duration;

use super::Stage;
use super::data::Data;
use super::device::Agreement;
use crate::cli::failure::Failure;
use crate::cli::open;
use crate::cli::ui::{Table, bytes, hex, plural, span, thousands};

/// What the steps measured. Each field is filled by the step of its name.
#[derive(Default)]
pub(super) struct Report {
    origin: String,
    records: u64,
    json_bytes: u64,
    pub(super) import: Duration,
    pub(super) first_sync: Duration,
    pub(super) first_sync_bytes: u64,
    pub(super) edits: u64,
    pub(super) edit_pace: f64,
    pub(super) edit_commit: Duration,
    pub(super) latency: (Duration, Duration),
    pub(super) edit_bytes: (u64, u64),
    pub(super) edit_json_bytes: u64,
    pub(super) reconnect: Duration,
    pub(super) conflicts: (u64, u64),
    pub(super) inbox: (u64, u64),
    pub(super) relay_away: Duration,
    pub(super) recover: Duration,
    pub(super) crash_acknowledged: u64,
    pub(super) disk_closed: [u64; 3],
    disk: [u64; 3],
    wire: [(u64, u64); 2],
}

impl Report {
    pub(super) fn new(data: &Data) -> Self {
        Self {
            origin: data.origin.clone(),
            records: data.items.len() as u64,
            json_bytes: data.json_bytes,
            ..Self::default()
        }
    }

    /// Takes the sizes at the end.
    pub(super) fn measure(&mut self, stage: &Stage) -> Result<(), Failure> {
        self.disk = [stage.a.bytes_on_disk(), stage.b.bytes_on_disk(), open::bytes_on_disk(&stage.relay_data)];
        let (a, b) = (stage.a.traffic()?, stage.b.traffic()?);
        self.wire = [(a.sent, a.received), (b.sent, b.received)];
        Ok(())
    }

    /// Writes the table and the line that says whether all are equal.
    pub(super) fn finish(&self, agreement: &Agreement, took: Duration) -> String {
        let [disk_a, disk_b, disk_relay] = self.disk.map(bytes);
        let [closed_a, closed_b, closed_relay] = self.disk_closed.map(bytes);
        let [(sent_a, received_a), (sent_b, received_b)] = self.wire;
        let per_edit = |total: u64| total as f64 / self.edits.max(1) as f64;
        let mut table = Table::default();
        table.row(
            "records",
            format!(
                "{} from {}, {} documents at the end",
                thousands(self.records),
                self.origin,
                thousands(agreement.documents)
            ),
        );
        table.row("operations", format!("{} in the relay's log", thousands(agreement.head)));
        table.row(
            "bytes as JSON",
            format!("{} imported; {:.0} B per edit", bytes(self.json_bytes), per_edit(self.edit_json_bytes)),
        );
        table.row(
            "bytes on disk",
            format!(
                "A {closed_a}, B {closed_b}, relay {closed_relay} when closed ({disk_a}, {disk_b}, {disk_relay} while open); encrypted"
            ),
        );
        table.row(
            "bytes on the wire",
            format!(
                "A sent {} and received {}, B sent {} and received {}",
                bytes(sent_a),
                bytes(received_a),
                bytes(sent_b),
                bytes(received_b)
            ),
        );
        table.row(
            "wire per edit",
            format!("{:.0} B from A, {:.0} B to B", per_edit(self.edit_bytes.0), per_edit(self.edit_bytes.1)),
        );
        table.row("offline import", format!("{} on A", span(self.import)));
        table.row("first sync", format!("{} for {} from A to B", span(self.first_sync), bytes(self.first_sync_bytes)));
        table.row(
            "live edits",
            format!(
                "{} at {:.0}/s; durable commit on A {} on average",
                thousands(self.edits),
                self.edit_pace,
                span(self.edit_commit)
            ),
        );
        table.row("commit on A to visible on B", format!("p50 {}, p99 {}", span(self.latency.0), span(self.latency.1)));
        table.row(
            "time to converge",
            format!("{} after being cut off, {} after the crash", span(self.reconnect), span(self.recover)),
        );
        table.row(
            "conflicts merged",
            format!(
                "A {}, B {}; kept in the inbox: A {}, B {}",
                self.conflicts.0, self.conflicts.1, self.inbox.0, self.inbox.1
            ),
        );
        table.row(
            "relay killed",
            format!(
                "away for {}; {}, none lost, none doubled",
                span(self.relay_away),
                plural(self.crash_acknowledged, "acknowledged transaction")
            ),
        );
        table.row("whole demo", span(took));
        format!("\n{table}\nA == B == relay: identical (digest {}...)", &hex(&agreement.digest)[..16])
    }
}
