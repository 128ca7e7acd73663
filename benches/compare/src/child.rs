//! A process of its own for every task: no subject inherits another one's heap, threads or open files.
//!
//! The program starts itself with the task as JSON; the child's last line is what it found, as JSON.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use crate::measure::Figures;
use crate::subjects::Failure;
use crate::workloads::Task;

/// First argument of a child; the second is its task.
pub(crate) const CHILD: &str = "--child";

/// Does the task in a process of its own and returns what it found.
pub(crate) fn run(task: &Task) -> Result<Figures, Failure> {
    let output = spawn(task)?.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("{} of {} failed", task.part.name(), task.subject).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(text.lines().last().ok_or("a child found nothing")?)?)
}

pub(crate) fn spawn(task: &Task) -> Result<Child, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(CHILD).arg(serde_json::to_string(task)?);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
}

/// The child's side.
pub(crate) fn work(task: &str) -> Result<(), Failure> {
    let task: Task = serde_json::from_str(task)?;
    let found = task.run()?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&found)?)?;
    Ok(())
}
