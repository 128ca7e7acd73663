//! A server for gRPC's interoperability tests: `cargo run -p blazedb-relay --example interop -- DIR`.
//!
//! It is the relay's network side with other methods behind it, so that other people's clients can try every kind of call.
//! Keys are made in DIR; prints its address, serves until its input ends.

mod service;

use std::error::Error;
use std::io::{Read as _, Write as _};

use blazedb_relay::serve::{Limits, ServeConfig, bind};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: interop DIR")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // Nobody shows a token here, and some of these calls move megabytes.
        let limits = Limits { stranger_bytes_max: 64 << 20, stranger_bytes_per_second: 64 << 20, ..Limits::default() };
        let config = ServeConfig { dir: dir.into(), listen: "127.0.0.1:0".parse()?, names: Vec::new(), limits };
        let bound = bind(config).await?;
        let mut out = std::io::stdout();
        writeln!(out, "{}", bound.address())?;
        out.flush()?;
        let input = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        bound
            .serve(service::Interop, async {
                let _ = input.await;
            })
            .await;
        Ok(())
    })
}
