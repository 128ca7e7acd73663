//! `blazedb serve` and `blazedb token`: run a relay, and let devices in.

use std::io::IsTerminal;
use std::net::SocketAddr;

use blazedb_relay::config::Config;
use blazedb_relay::server;
use blazedb_relay::token as tokens;
use tracing_subscriber::EnvFilter;

use super::args::{ServeArgs, TokenArgs};
use super::failure::Failure;
use super::{Outcome, exit, signals, ui};

/// What the ready line begins with; programs that start a relay wait for it.
const READY: &str = "blazedb relay ready on ";
const FINGERPRINT: &str = " fingerprint ";
/// What is logged unless `BLAZEDB_LOG` says otherwise. h2 warns of each answer to a ping that it has not sent itself, and the
/// relay's keepalive does not go through it.
const LOG_FILTER: &str = "info,h2::proto::ping_pong=error";

/// What the one line on stdout says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) address: SocketAddr,
    pub(crate) fingerprint: String,
}

impl Ready {
    /// Reads the line back.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (url, fingerprint) = line.strip_prefix(READY)?.split_once(FINGERPRINT)?;
        Some(Self { address: url.strip_prefix("https://")?.parse().ok()?, fingerprint: fingerprint.to_owned() })
    }

    /// Returns the address that clients on this machine use.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl std::fmt::Display for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{READY}{}{FINGERPRINT}{}", self.url(), self.fingerprint)
    }
}

/// Runs a relay until Ctrl-C or SIGTERM.
pub(crate) fn serve(args: ServeArgs) -> Outcome {
    let filter = EnvFilter::try_from_env("BLAZEDB_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // What cannot be written, as the disk under it is full or its reader has gone, is lost: to say so there, too, would be a
        // panic, and the relay's work does not depend on who reads its log.
        .log_internal_errors(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("relay")
        .build()
        .map_err(|e| Failure::io("cannot start the relay's threads", &e))?;
    let stop = async move {
        if args.until_stdin_ends {
            tokio::select! {
                () = signals::wait() => {}
                () = stdin_ends() => {}
            }
        } else {
            signals::wait().await;
        }
        tracing::info!("shutting down");
    };
    let config = Config::new(&args.data, args.listen);
    let served = runtime.block_on(server::run(
        config,
        |ready| {
            ui::line(&Ready { address: ready.address, fingerprint: ready.fingerprint.to_string() }.to_string());
        },
        stop,
    ));
    served.map_err(|e| {
        Failure::because(format!("the relay in {} cannot run", args.data.display()), &e, next_for_serve(&e.to_string()))
    })?;
    Ok(exit::DONE)
}

fn next_for_serve(text: &str) -> &'static str {
    if text.contains("in use") {
        "stop the other program on that port, or choose another one with --listen"
    } else if text.contains("lock") {
        "one relay at a time runs on a data directory: stop the other one"
    } else if text.contains("stopped writing") {
        "look at the system's messages for what the disk said; what was acknowledged is safe, and devices send the rest again"
    } else {
        "check --data and --listen; the log above says more"
    }
}

/// Resolves when stdin has ended. The thread stays behind if it has not when the relay stops; it holds nothing.
async fn stdin_ends() {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // What is written to the relay's stdin means nothing; only its end does, and an error is an end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = send.send(());
    });
    let _ = receive.await;
}

/// Makes a token; the relay may be running.
pub(crate) fn token(args: &TokenArgs) -> Outcome {
    let token = tokens::issue(&args.data, &args.space, &args.subject, args.ttl).map_err(|e| {
        Failure::because(
            format!("cannot make a token in {}", args.data.display()),
            &e,
            "check --data, and run this as the user who runs the relay",
        )
    })?;
    ui::line(&token);
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_reads_back() {
        for address in ["127.0.0.1:7420", "[::1]:80"] {
            let ready = Ready { address: address.parse().expect("an address"), fingerprint: "ab".repeat(32) };
            assert_eq!(Ready::parse(&ready.to_string()), Some(ready));
        }
        assert_eq!(Ready::parse("blazedb relay ready on https://x fingerprint y"), None);
    }
}
