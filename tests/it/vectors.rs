//! The vectors of spec/ and the reader that was written from the specification alone.

#![allow(clippy::print_stdout, reason = "a test that looks at less than it could says so")]

use std::path::Path;
use std::process::Command;

#[test]
fn the_reader_in_python_reads_every_vector() {
    let spec = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec");
    let mut python = Command::new("python3");
    python.arg("-B").arg(spec.join("reference/blaze_reader.py")).arg("--vectors").arg(spec.join("vectors"));
    let Ok(output) = python.output() else {
        println!("skipped: there is no python3");
        return;
    };
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{wrong}");
    let read: u32 = said.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or_default();
    assert!(read > 300, "{said}");
}
