//! `World`: devices, a relay and the links between them, in one thread, from one seed.
//!
//! Fault model: a device or the relay loses power between any two steps (its disk keeps an arbitrary part of what was not
//! synced); a device's file is copied and both copies live on; a device is closed and opened again; links break and lose
//! what was in flight; frames are doubled and swapped on the way; clocks of devices are wrong by up to an hour and stay
//! wrong. The relay's clock is right.
//!
//! When the faults end, everything connects and the world must come to rest: see [`crate::check`].

use blazedb_relay::hub::ConnId;

use crate::bugs::Bug;
use crate::check;
use crate::device::{Device, Want};
use crate::disk::Disk;
use crate::link::{Flight, Link, due};
use crate::relay::{Out, Relay};
use crate::rng::Rng;

/// Steps of the calm phase after which a world that does not rest is called stuck.
const CALM_STEPS_MAX: u64 = 200_000;

/// Where a frame says what it is, and the two kinds of a greeting (spec/frame.md).
const KIND_OFFSET: usize = 3;
const HELLO: u8 = 1;
const WELCOME: u8 = 2;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Everything follows from it.
    pub seed: u64,
    /// Steps with faults.
    pub steps: u64,
    /// A bug to plant.
    pub bug: Option<Bug>,
}

/// What a world that came to rest looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Devices at the end, copies included.
    pub devices: usize,
    /// Live documents.
    pub documents: u64,
    /// Operations in the log.
    pub ops: u64,
    /// Power cuts survived.
    pub crashes: u64,
    /// Connections made.
    pub connections: u64,
    /// Things set aside in each device's inbox, all devices together.
    pub boxed: u64,
    /// Hash of everything that was delivered: equal for equal seeds.
    pub trace: u64,
}

/// A simulated cluster.
pub struct World {
    config: Config,
    pub(crate) rng: Rng,
    now: u64,
    pub(crate) devices: Vec<Device>,
    links: Vec<Option<Link>>,
    pub(crate) relay: Relay,
    next_conn: u64,
    value: i64,
    pub(crate) report: Report,
    /// A file was copied before its first sync.
    pub(crate) unbound_copies: bool,
    calm: bool,
}

impl World {
    /// Returns a world with two or three devices and a relay, all of them off.
    pub fn new(config: Config) -> Self {
        let mut rng = Rng::new(config.seed);
        let count = 2 + rng.below(2);
        let devices: Vec<Device> = (0..count)
            .map(|name| {
                let disk = Disk::new(rng.draw(), config.bug == Some(Bug::LyingSync));
                let skew = if rng.chance(50) { 0 } else { rng.below(7_200_000) as i64 - 3_600_000 };
                Device::new(name, disk, skew)
            })
            .collect();
        let relay = Relay::new(Disk::new(rng.draw(), false), config.bug);
        let links = (0..count).map(|_| None).collect();
        Self {
            config,
            rng,
            now: 1,
            devices,
            links,
            relay,
            next_conn: 1,
            value: 0,
            report: Report::default(),
            unbound_copies: false,
            calm: false,
        }
    }

    /// Runs the world to its rest and checks it.
    ///
    /// # Errors
    /// The promise that did not hold.
    pub fn run(mut self) -> Result<Report, String> {
        self.relay.start()?;
        for index in 0..self.devices.len() {
            self.devices[index].start(self.now, &mut self.rng)?;
        }
        for step in 0..self.config.steps {
            self.step().map_err(|e| format!("step {step}: {e}"))?;
        }
        self.settle()?;
        check::check(&mut self)?;
        self.report.devices = self.devices.len();
        Ok(self.report)
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.below(100) {
            0..30 => {
                let index = self.rng.below(self.devices.len());
                self.devices[index].set_clock(self.now);
                self.devices[index].write(&mut self.rng, &mut self.value)?;
                if self.rng.chance(70) {
                    self.devices[index].seal(self.now)?;
                }
            }
            30..75 => self.deliver()?,
            75..82 => self.now += self.rng.below(400) as u64,
            82..88 => self.sync_relay()?,
            88..91 => {
                let index = self.rng.below(self.devices.len());
                self.cut_link(index)?;
            }
            91..94 => self.disturb(),
            94..96 => {
                let index = self.rng.below(self.devices.len());
                self.power_cut(index)?;
            }
            96 => self.relay_power_cut()?,
            97 => {
                let index = self.rng.below(self.devices.len());
                self.lose_link(index);
                self.devices[index].close()?;
                self.devices[index].start(self.now, &mut self.rng)?;
            }
            98 => self.copy_device()?,
            _ => self.now += self.rng.below(30_000) as u64,
        }
        self.poll_all()
    }

    /// No more faults: everything connects, until nothing is left to do.
    fn settle(&mut self) -> Result<(), String> {
        self.calm = true;
        if !self.relay.is_up() {
            self.relay.start()?;
        }
        for step in 0..CALM_STEPS_MAX {
            self.deliver()?;
            self.sync_relay()?;
            for index in 0..self.devices.len() {
                self.devices[index].seal(self.now)?;
            }
            self.poll_all()?;
            self.now += 5;
            if step % 16 == 0 && self.rests()? {
                return Ok(());
            }
        }
        Err(format!("the world does not come to rest within {CALM_STEPS_MAX} calm steps"))
    }

    fn rests(&mut self) -> Result<bool, String> {
        if self.relay.has_group() || self.links.iter().any(Option::is_none) {
            return Ok(false);
        }
        if self.links.iter().flatten().any(|link| !link.up.is_empty() || !link.down.is_empty()) {
            return Ok(false);
        }
        let head = self.relay.head()?;
        for device in &self.devices {
            if !device.is_idle()? || device.cursor() != Some(head) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn poll_all(&mut self) -> Result<(), String> {
        for index in 0..self.devices.len() {
            self.devices[index].time_passes(self.now);
            self.poll(index)?;
        }
        let mut out = Vec::new();
        self.relay.tick(self.now, &mut out);
        self.carry(out);
        Ok(())
    }

    fn poll(&mut self, index: usize) -> Result<(), String> {
        loop {
            let (frames, wants) = self.devices[index].poll(self.now);
            if frames.is_empty() && wants.is_empty() {
                return Ok(());
            }
            for want in wants {
                match want {
                    Want::Connect => self.connect(index)?,
                    Want::Disconnect => self.lose_link(index),
                    Want::Fault(what) => return Err(what),
                }
            }
            let at = self.arrival();
            if let Some(link) = &mut self.links[index] {
                link.up.extend(frames.into_iter().map(|bytes| Flight { at, bytes }));
            }
        }
    }

    fn arrival(&mut self) -> u64 {
        if self.calm { self.now } else { self.now + self.rng.below(60) as u64 }
    }

    fn connect(&mut self, index: usize) -> Result<(), String> {
        self.lose_link(index);
        let refused = !self.relay.is_up() || (!self.calm && self.rng.chance(10));
        if refused {
            self.devices[index].disconnected(self.now);
            return Ok(());
        }
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.report.connections += 1;
        self.links[index] = Some(Link::new(conn));
        let mut out = Vec::new();
        self.relay.connect(self.now, conn, &mut out);
        self.devices[index].connected(self.now)?;
        self.carry(out);
        Ok(())
    }

    /// Forgets a link; what was in flight is lost, and the relay notices.
    fn lose_link(&mut self, index: usize) {
        if let Some(link) = self.links[index].take() {
            let mut out = Vec::new();
            self.relay.disconnected(self.now, link.conn, &mut out);
            self.carry(out);
        }
    }

    fn cut_link(&mut self, index: usize) -> Result<(), String> {
        if self.links[index].is_some() {
            self.lose_link(index);
            self.devices[index].disconnected(self.now);
            self.poll(index)?;
        }
        Ok(())
    }

    /// Doubles or swaps frames on their way.
    fn disturb(&mut self) {
        let index = self.rng.below(self.links.len());
        let Some(link) = &mut self.links[index] else { return };
        let queue = if self.rng.chance(50) { &mut link.up } else { &mut link.down };
        if queue.is_empty() {
            return;
        }
        let place = self.rng.below(queue.len());
        // The greeting is left alone: a stream that doubles it is refused for good, and rightly so.
        let greeting = |flight: &Flight| matches!(flight.bytes.get(KIND_OFFSET), Some(&(HELLO | WELCOME)));
        if queue.iter().skip(place).take(2).any(greeting) {
            return;
        }
        if self.rng.chance(50) {
            let again = queue[place].clone();
            queue.insert(place, again);
        } else if place + 1 < queue.len() {
            queue.swap(place, place + 1);
        }
    }

    fn deliver(&mut self) -> Result<(), String> {
        let start = self.rng.below(self.links.len());
        for offset in 0..self.links.len() {
            let index = (start + offset) % self.links.len();
            let rounds = if self.calm { usize::MAX } else { 1 + self.rng.below(4) };
            for _ in 0..rounds {
                let Some(link) = &mut self.links[index] else { break };
                let conn = link.conn;
                let up = due(&mut link.up, self.now);
                let down = due(&mut link.down, self.now);
                if up.is_none() && down.is_none() {
                    break;
                }
                if let Some(bytes) = up {
                    self.trace(index, &bytes);
                    let mut out = Vec::new();
                    self.relay.frame(self.now, conn, bytes, &mut out);
                    self.carry(out);
                }
                if let Some(bytes) = down {
                    self.trace(index, &bytes);
                    let mut out = Vec::new();
                    self.relay.sent(self.now, conn, bytes.len(), &mut out);
                    self.carry(out);
                    self.devices[index].receive(self.now, bytes);
                    self.poll(index)?;
                }
            }
        }
        Ok(())
    }

    fn sync_relay(&mut self) -> Result<(), String> {
        let mut out = Vec::new();
        self.relay.sync_group(self.now, &mut out);
        self.carry(out);
        Ok(())
    }

    /// Takes what the relay wants done to the links.
    fn carry(&mut self, out: Vec<Out>) {
        for item in out {
            let at = self.arrival();
            match item {
                Out::Send { conn, bytes } => {
                    if let Some(link) = self.links.iter_mut().flatten().find(|link| link.conn == conn) {
                        link.down.push_back(Flight { at, bytes });
                    }
                }
                Out::Close { conn, error } => {
                    let Some(index) = self.links.iter().position(|l| l.as_ref().is_some_and(|l| l.conn == conn)) else {
                        continue;
                    };
                    // The last words arrive with the end of the stream.
                    if let Some(bytes) = error {
                        self.devices[index].receive(self.now, bytes);
                    }
                    self.links[index] = None;
                    self.devices[index].disconnected(self.now);
                }
            }
        }
    }

    fn power_cut(&mut self, index: usize) -> Result<(), String> {
        self.report.crashes += 1;
        self.lose_link(index);
        self.devices[index].crash(&mut self.rng);
        self.devices[index].start(self.now, &mut self.rng)
    }

    fn relay_power_cut(&mut self) -> Result<(), String> {
        self.report.crashes += 1;
        for index in 0..self.links.len() {
            if self.links[index].take().is_some() {
                self.devices[index].disconnected(self.now);
            }
        }
        self.relay.crash(&mut self.rng);
        self.relay.start()
    }

    /// Copies a device's file and lets both copies live; with the planted bug the copy forgets to take a new identity.
    fn copy_device(&mut self) -> Result<(), String> {
        if self.devices.len() >= 5 {
            return Ok(());
        }
        let index = self.rng.below(self.devices.len());
        self.lose_link(index);
        self.devices[index].disconnected(self.now);
        self.devices[index].close()?;
        let name = self.devices.len();
        let seed = self.rng.draw();
        let mut copy = self.devices[index].copy(name, seed);
        self.unbound_copies |= !copy.bound;
        if self.config.bug == Some(Bug::CounterReused) {
            // Both draw the same random bytes from here on, and so the same replica id.
            let shared = self.rng.draw();
            copy.disk.reseed(shared);
            self.devices[index].disk.reseed(shared);
        }
        copy.start(self.now, &mut self.rng)?;
        self.devices[index].start(self.now, &mut self.rng)?;
        self.devices.push(copy);
        self.links.push(None);
        Ok(())
    }

    fn trace(&mut self, index: usize, bytes: &[u8]) {
        let mut hash = self.report.trace ^ (index as u64 + 1);
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
        self.report.trace = hash ^ self.now;
    }
}
