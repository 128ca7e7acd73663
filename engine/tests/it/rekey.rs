//! Keys of a store in use: slots, providers, and the change of the master key, with crashes anywhere inside.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex, mpsc};

use blazedb_engine::env::{SimDisk, Survivors};
use blazedb_engine::{
    CipherChoice, Corruption, CorruptionKind, Env, KdfCost, KeyKind, KeyProvider, KeyRequest, KeySource, MaintainError,
    Memory, OpenError, Options, RekeyOptions, Secret, Store, log_file_names,
};
use zeroize::Zeroizing;

use crate::support::{Model, NAME, Random, content, get, model_of, options, put, random_changes, roomy, scale};

const PAGES: usize = 128 << 10;
const SLOTS: [usize; 2] = [0, 64 << 10];
const COST: KdfCost = KdfCost::InsecureForTests;

fn words(words: &str) -> KeySource {
    KeySource::Passphrase(Secret::from(words))
}

fn raw(byte: u8) -> KeySource {
    KeySource::Raw(Zeroizing::new([byte; 32]))
}

fn with(key: KeySource) -> Options {
    Options { key, ..options().kdf(COST).create(false) }
}

fn opens(disk: &SimDisk, key: KeySource) -> bool {
    match Store::open(disk.copy().env(NAME), with(key)) {
        Ok(_) => true,
        Err(OpenError::WrongKey) => false,
        Err(e) => panic!("{e}: {:?}", e.source().map(ToString::to_string)),
    }
}

/// Key epochs of everything in the files that was ever sealed, pages and groups.
fn epochs(disk: &SimDisk) -> (BTreeSet<u16>, BTreeSet<u16>) {
    let (mut pages, mut groups) = (BTreeSet::new(), BTreeSet::new());
    let main = disk.read_file(NAME).expect("is there");
    for page in main[PAGES..].chunks(4096).filter(|page| page.iter().any(|&b| b != 0)) {
        pages.insert(u16::from_le_bytes([page[6], page[7]]));
    }
    for log in log_file_names(NAME).iter().filter_map(|name| disk.read_file(name)) {
        for block in log.chunks(64).filter(|block| block.starts_with(b"BLZG")) {
            groups.insert(u16::from_le_bytes([block[60], block[61]]));
        }
    }
    (pages, groups)
}

/// Whether everything that is sealed is of this epoch. There need not be a group.
fn has_only(disk: &SimDisk, epoch: u16) -> bool {
    let (pages, groups) = epochs(disk);
    pages == BTreeSet::from([epoch]) && groups.is_subset(&pages)
}

/// Answers with a key of its own per file, and notes what it was asked; fails when told to.
#[derive(Default)]
struct Card {
    asked: Mutex<Vec<([u8; 16], [u8; 16])>>,
    is_gone: Mutex<bool>,
}

impl KeyProvider for Card {
    fn key(&self, request: &KeyRequest<'_>) -> Result<Zeroizing<[u8; 32]>, Box<dyn Error + Send + Sync>> {
        if *self.is_gone.lock().expect("no panic") {
            return Err("no card in the reader".into());
        }
        self.asked.lock().expect("no panic").push((*request.file, *request.salt));
        let mut key = Zeroizing::new([0; 32]);
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = request.file[i % 16] ^ request.salt[i / 2] ^ i as u8;
        }
        Ok(key)
    }
}

/// Asks a person, who takes her time.
struct Person {
    asked: mpsc::SyncSender<()>,
    answer: Mutex<mpsc::Receiver<()>>,
}

impl KeyProvider for Person {
    fn key(&self, _: &KeyRequest<'_>) -> Result<Zeroizing<[u8; 32]>, Box<dyn Error + Send + Sync>> {
        self.asked.send(())?;
        self.answer.lock().expect("no panic").recv()?;
        Ok(Zeroizing::new([9; 32]))
    }
}

#[test]
fn commits_and_checkpoints_go_on_while_somebody_is_asked_for_a_key() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), Options { key: raw(1), ..options().kdf(COST) }).expect("opens");
    type Change = fn(&Store, KeySource) -> Result<(), MaintainError>;
    let change: [Change; 4] = [
        |store, key| store.add_key(&key, COST).map(drop),
        |store, key| store.remove_key(&key),
        |store, key| store.rekey(&RekeyOptions::new(raw(1), COST).and_key(key, COST)),
        |store, key| store.change_key(&key, COST),
    ];
    for change in change {
        let (asked, is_asked) = mpsc::sync_channel(0);
        let (answer, answers) = mpsc::channel();
        let person: Arc<dyn KeyProvider> = Arc::new(Person { asked, answer: Mutex::new(answers) });
        std::thread::scope(|scope| {
            let changing = scope.spawn(|| change(&store, KeySource::Provider(person)));
            is_asked.recv().expect("somebody is asked");
            let (written, is_written) = mpsc::channel();
            scope.spawn({
                let store = &store;
                move || {
                    (0..50_u32).for_each(|n| drop(put(store, "rows", &n.to_le_bytes(), &[1; 900])));
                    store.checkpoint().expect("room");
                    written.send(())
                }
            });
            let went_on = is_written.recv_timeout(std::time::Duration::from_secs(20));
            answer.send(()).expect("she is there");
            let changed = changing.join().expect("no panic");
            went_on.expect("nobody waits for her");
            changed.expect("the key is good");
        });
    }
}

/// spec: C-3
#[test]
fn up_to_four_keys_open_one_file() {
    let disk = SimDisk::new(1);
    let card = Arc::new(Card::default());
    let provider = || KeySource::Provider(card.clone());
    let store = Store::open(disk.env(NAME), options().kdf(COST)).expect("creates");
    put(&store, "t", b"k", b"v").expect("commits");
    assert_eq!(store.add_key(&words("one"), COST).expect("room"), 1);
    assert_eq!(store.add_key(&provider(), COST).expect("room"), 2);
    assert_eq!(store.add_key(&words("two"), COST).expect("room"), 3);
    assert!(matches!(store.add_key(&raw(9), COST), Err(MaintainError::TooManyKeys)));
    assert!(matches!(store.add_key(&KeySource::None, COST), Err(MaintainError::TooManyKeys)));
    let kinds: Vec<_> = store.key_slots().iter().map(|slot| (slot.index, slot.kind, slot.memory_kib)).collect();
    let passphrase = |index| (index, KeyKind::Passphrase, 8);
    assert_eq!(kinds, [(0, KeyKind::Raw, 0), passphrase(1), (2, KeyKind::Provider, 0), passphrase(3)]);
    for (key, right) in [
        (raw(42), true),
        (words("one"), true),
        (provider(), true),
        (words("two"), true),
        (raw(9), false),
        (words("three"), false),
    ] {
        assert_eq!(opens(&disk, key.clone()), right, "{key:?}");
    }
    assert!(matches!(store.remove_key(&words("three")), Err(MaintainError::WrongKey)));
    assert!(matches!(store.remove_key_slot(4), Err(MaintainError::WrongKey)));
    store.remove_key(&words("one")).expect("removes");
    assert!(matches!(store.remove_key_slot(1), Err(MaintainError::WrongKey)));
    store.remove_key_slot(3).expect("removes");
    store.change_key(&raw(7), COST).expect("changes its own");
    // Neither header opens with what was taken away, and both with what is there.
    for slot in SLOTS {
        let damaged = disk.copy();
        assert!(damaged.flip_bit(NAME, (slot as u64 + 50) * 8));
        for key in [words("one"), words("two"), raw(42)] {
            assert!(!opens(&damaged, key.clone()), "{key:?} at {slot}");
        }
        assert!(opens(&damaged, raw(7)) && opens(&damaged, provider()));
    }
    store.remove_key(&raw(7)).expect("the card is left");
    assert!(matches!(store.remove_key(&provider()), Err(MaintainError::LastKey)));
    assert!(matches!(store.remove_key_slot(2), Err(MaintainError::LastKey)));
    // Its own key being gone, the new one is added.
    store.change_key(&words("late"), COST).expect("room");
    assert_eq!(store.key_slots().len(), 2);
    assert!(opens(&disk, words("late")) && opens(&disk, provider()));
    store.close().expect("closes");
    assert!(matches!(store.add_key(&raw(1), COST), Err(MaintainError::Closed)));
    let reader = Store::open(disk.env(NAME), with(words("late")).read_only(true)).expect("opens");
    assert!(matches!(reader.remove_key_slot(0), Err(MaintainError::ReadOnly)));
    assert_eq!(reader.key_slots().len(), 2);
    let plain = Store::open(Env::memory(2), Options::unencrypted()).expect("creates");
    assert!(matches!(plain.add_key(&raw(1), COST), Err(MaintainError::NotEncrypted)));
    assert!(matches!(plain.rekey(&RekeyOptions::new(raw(1), COST)), Err(MaintainError::NotEncrypted)));
    assert_eq!(plain.key_slots(), []);
}

#[test]
fn a_key_provider_is_asked_for_this_file_and_its_error_is_passed_on() {
    let disk = SimDisk::new(2);
    let card = Arc::new(Card::default());
    let chosen = with(KeySource::Provider(card.clone()));
    assert_eq!(format!("{:?}", chosen.key), "Provider(..)");
    let store = Store::open(disk.env(NAME), chosen.clone().create(true)).expect("creates");
    put(&store, "t", b"k", b"v").expect("commits");
    store.close().expect("closes");
    drop(store);
    let id: [u8; 16] = disk.read_file(NAME).expect("is there")[24..40].try_into().expect("16 bytes");
    assert!(card.asked.lock().expect("no panic").iter().all(|(file, _)| *file == id));
    *card.is_gone.lock().expect("no panic") = true;
    let before = (disk.read_file(NAME), disk.changes());
    let error = Store::open(disk.env(NAME), chosen.clone()).expect_err("no card");
    assert!(matches!(error, OpenError::KeyProvider { .. }), "{error:?}");
    assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("no card in the reader"));
    assert_eq!((disk.read_file(NAME), disk.changes()), before, "nothing was written");
    *card.is_gone.lock().expect("no panic") = false;
    // 32 bytes are not the card, whatever they are.
    assert!(!opens(&disk, raw(42)));
    let store = Store::open(disk.env(NAME), chosen).expect("opens");
    *card.is_gone.lock().expect("no panic") = true;
    let gone = || KeySource::Provider(card.clone());
    let before = disk.read_file(NAME);
    let refused = [
        store.add_key(&gone(), COST).map(|_| ()),
        store.remove_key(&gone()),
        store.change_key(&gone(), COST),
        store.rekey(&RekeyOptions::new(gone(), COST)),
        store.rekey(&RekeyOptions::new(gone(), COST).lock_out_old_keys(true)),
    ];
    for result in refused {
        assert!(matches!(result, Err(MaintainError::KeyProvider { .. })), "{result:?}");
    }
    assert_eq!(disk.read_file(NAME), before);
    put(&store, "t", b"k2", b"v").expect("the store goes on");
}

/// spec: C-10
#[test]
fn after_a_rekey_nothing_of_the_old_key_is_left() {
    for (seed, cipher) in [(3, None), (4, Some(CipherChoice::ChaCha20Poly1305)), (5, Some(CipherChoice::Aes256Gcm))] {
        let disk = SimDisk::new(seed);
        let store = Store::open(disk.env(NAME), options().cipher(CipherChoice::Aes256Gcm)).expect("creates");
        store.add_key(&words("lost"), COST).expect("room");
        let (mut random, mut model) = (Random::new(seed), Model::new());
        fill(&store, &mut random, &mut model, 60);
        put(&store, "t", b"long", &[7; 90_000]).expect("commits");
        model.entry("t".into()).or_default().insert(b"long".to_vec(), vec![7; 90_000]);
        assert!(has_only(&disk, 0));
        // A mistyped passphrase would lock everybody out.
        let mistyped = RekeyOptions::new(words("mistyped"), COST);
        assert!(matches!(store.rekey(&mistyped), Err(MaintainError::WrongKey)));
        assert!(matches!(store.rekey(&RekeyOptions::default()), Err(MaintainError::LastKey)));
        assert!(matches!(
            store.rekey(&RekeyOptions::new(raw(42), COST).and_key(KeySource::None, COST)),
            Err(MaintainError::NotEncrypted)
        ));
        assert_eq!(store.stats().rekey, None);
        let mut wanted = RekeyOptions::new(words("new"), COST).and_key(raw(42), COST);
        wanted.clone_from(&cipher.map_or(wanted.clone(), |cipher| wanted.clone().cipher(cipher)));
        store.rekey(&wanted).expect("begins");
        assert!(matches!(store.rekey(&wanted), Err(MaintainError::RekeyUnderWay)));
        assert!(store.stats().rekey.is_some_and(|now| !now.finished && now.total > 20));
        assert_eq!(model_of(&store), model);
        let (mut steps, mut both_seen) = (0, false);
        loop {
            both_seen |= epochs(&disk).0.len() == 2;
            let now = store.rekey_step(8).expect("goes on");
            steps += 1;
            assert!(now.done <= now.total && steps < 1_000, "{now:?}");
            if now.finished {
                break;
            }
            fill(&store, &mut random, &mut model, 1);
            assert_eq!(store.stats().rekey, Some(now));
        }
        assert!(steps > 8 && both_seen, "{steps} steps");
        assert_eq!(store.stats().rekey, None);
        assert!(has_only(&disk, 1));
        store.verify(&mut |_| {}).expect("pages and space agree");
        assert!(opens(&disk, words("new")) && opens(&disk, raw(42)) && !opens(&disk, words("lost")));
        let main = disk.read_file(NAME).expect("is there");
        let code = if seed == 4 { 2 } else { 1 };
        for slot in SLOTS {
            assert_eq!(main[slot + 12], code, "the header names the cipher");
            assert!(main[slot + 160..slot + 256].iter().all(|&b| b == 0), "and no key of the past");
        }
        assert!(main[PAGES..].chunks(4096).all(|page| page[5] == code || page.iter().all(|&b| b == 0)));
        assert_eq!(model_of(&store), model);
        // Once more, under the key that this store was opened with.
        store.rekey(&RekeyOptions::new(raw(42), COST)).expect("begins");
        store.rekey_all(&mut |_| {}).expect("ends");
        assert!(!opens(&disk, words("new")) && opens(&disk, raw(42)));
        store.close().expect("closes");
        drop(store);
        let store = Store::open(disk.env(NAME), options()).expect("opens");
        assert_eq!(model_of(&store), model);
        store.verify(&mut |_| {}).expect("pages and space agree");
        assert!(store.rekey_step(5).expect("nothing to do").finished);
    }
}

/// Commits in all ways, `n` times.
fn fill(store: &Store, random: &mut Random, model: &mut Model, n: u64) {
    for _ in 0..n {
        let mut tx = store.write();
        random_changes(random, &mut tx, model);
        tx.commit().expect("nobody else writes");
    }
}

/// What a run was told, as far as it came.
struct Told {
    /// States that may be shown: the last acknowledged one, and the one that was on its way.
    states: [Model; 2],
    /// The new key may be the one that opens; the old one may not any more.
    new_key: bool,
    old_key_gone: bool,
}

/// Fills a store, and changes its master key step by step with commits in between. Stops at the first error.
fn rekey_run(disk: &SimDisk, seed: u64) -> Told {
    let mut random = Random::new(seed);
    let mut told = Told { states: [Model::new(), Model::new()], new_key: false, old_key_gone: false };
    run_until_error(disk, &mut random, &mut told);
    told
}

fn run_until_error(disk: &SimDisk, random: &mut Random, told: &mut Told) -> Option<()> {
    let commit = |store: &Store, random: &mut Random, told: &mut Told| {
        let mut tx = store.write();
        random_changes(random, &mut tx, &mut told.states[1]);
        tx.commit().ok()?;
        told.states[0] = told.states[1].clone();
        Some(())
    };
    let store = Store::open(disk.env(NAME), roomy()).ok()?;
    (0..12).try_for_each(|_| commit(&store, random, told))?;
    store.checkpoint().ok()?;
    (0..3).try_for_each(|_| commit(&store, random, told))?;
    told.new_key = true;
    store.rekey(&RekeyOptions::new(words("new"), COST).lock_out_old_keys(true)).ok()?;
    told.old_key_gone = true;
    loop {
        let now = store.rekey_step(1 + random.below(6)).ok()?;
        if random.below(3) == 0 {
            commit(&store, random, told)?;
        }
        if now.finished {
            break;
        }
    }
    commit(&store, random, told)?;
    store.close().ok()
}

/// Opens what a crash left, as it must open; goes on with the change of the key, and ends it.
fn check_after(after: &SimDisk, told: &Told, context: &str) {
    let new = Store::open(after.env(NAME), with(words("new")).memory(Memory::CLIENT));
    let (store, is_new) = match new {
        Ok(store) => (store, true),
        Err(OpenError::WrongKey) if !told.old_key_gone => {
            (Store::open(after.env(NAME), roomy()).expect("the old key opens"), false)
        }
        Err(OpenError::NotFound { .. }) if told.states[0].is_empty() => return,
        Err(e) => panic!("{context}: {e}: {:?}", e.source().map(ToString::to_string)),
    };
    assert!(told.new_key || !is_new, "{context}");
    let found = model_of(&store);
    assert!(told.states.contains(&found), "{context}: a state that was not acknowledged, or never was");
    store.verify(&mut |_| {}).unwrap_or_else(|e| panic!("{context}: {e}"));
    // From here on both headers say the same of the keys.
    for slot in SLOTS {
        let damaged = after.copy();
        damaged.flip_bit(NAME, (slot as u64 + 50) * 8);
        assert_eq!(opens(&damaged, raw(42)), !is_new, "{context}, header at {slot}");
    }
    let was_under_way = store.stats().rekey.is_some();
    put(&store, "rows", b"more", b"v").expect("writes go on");
    store.rekey_all(&mut |_| {}).unwrap_or_else(|e| panic!("{context}: {e}"));
    store.verify(&mut |_| {}).unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut want = found;
    want.entry("rows".into()).or_default().insert(b"more".to_vec(), b"v".to_vec());
    assert_eq!(model_of(&store), want, "{context}");
    if was_under_way {
        assert!(has_only(after, 1), "{context}");
    }
    drop(store);
    let key = if is_new { words("new") } else { raw(42) };
    let store = Store::open(after.env(NAME), with(key).memory(Memory::CLIENT)).expect("opens");
    assert_eq!(model_of(&store), want, "{context}");
}

/// spec: C-10, E-15
#[test]
fn a_crash_at_every_point_of_a_rekey() {
    for seed in 1..=1 + scale() / 2 {
        let whole = SimDisk::new(seed);
        let told = rekey_run(&whole, seed);
        let points = whole.changes();
        check_after(&whole.copy(), &told, "no crash");
        assert!(points > 60, "{points} crash points");
        for point in 0..points {
            let disk = SimDisk::new(seed);
            disk.crash_at(point);
            let told = rekey_run(&disk, seed);
            assert!(disk.is_dead(), "the crash comes");
            for (i, survivors) in Survivors::ALL.into_iter().enumerate() {
                // One way to survive for each point, another one for each; all of them in a long run.
                if scale() == 1 && i as u64 != point % 5 {
                    continue;
                }
                let after = disk.after_crash(survivors, point * 31);
                check_after(&after, &told, &format!("seed {seed} point {point} {survivors:?}"));
            }
        }
    }
}

/// A crash, another one while the rest of the change goes on, and one more.
#[test]
fn crashes_in_a_rekey_that_goes_on_after_a_crash() {
    let mut random = Random::new(9);
    for round in 0..25 * scale() {
        let mut disk = SimDisk::new(round);
        disk.crash_at(40 + random.below(60));
        let told = rekey_run(&disk, round);
        for _ in 0..3 {
            disk = disk.after_crash(Survivors::ALL[random.below(5) as usize], random.next());
            let next = disk.copy();
            next.crash_at(random.below(25));
            if let Ok(store) = Store::open(next.env(NAME), with(words("new")).memory(Memory::CLIENT)) {
                let _ = store.rekey_all(&mut |_| {});
            }
            disk = next;
        }
        let after = disk.after_crash(Survivors::RandomSubset, round);
        check_after(&after, &told, &format!("round {round}"));
    }
}

/// spec: C-3
#[test]
fn a_crash_in_a_change_of_slots_leaves_one_state_of_them() {
    type Change = fn(&Store) -> Result<(), MaintainError>;
    let changes: [(Change, &[&str], &[&str]); 3] = [
        (|store| store.add_key(&words("new"), COST).map(|_| ()), &["old", "spare"], &["old", "spare", "new"]),
        (|store| store.remove_key(&words("old")), &["old", "spare"], &["spare"]),
        (|store| store.change_key(&words("new"), COST), &["old", "spare"], &["new", "spare"]),
    ];
    for (change, before, after) in changes {
        let disk = SimDisk::new(11);
        let store = Store::open(disk.env(NAME), with(words("old")).create(true)).expect("creates");
        store.add_key(&words("spare"), COST).expect("room");
        put(&store, "t", b"k", b"v").expect("commits");
        let mut point = 0;
        loop {
            let crashing = disk.copy();
            let store = Store::open(crashing.env(NAME), with(words("old"))).expect("opens");
            crashing.crash_at(point);
            let done = change(&store).is_ok();
            for survivors in Survivors::ALL {
                let left = crashing.after_crash(survivors, point);
                // Opening brings both headers to say the same.
                let store = Store::open(left.env(NAME), with(words("spare"))).expect("opens");
                assert_eq!(get(&store, "t", b"k").as_deref(), Some(&b"v"[..]));
                let opening = |disk: &SimDisk| ["old", "spare", "new"].map(|key| opens(disk, words(key)));
                let is = |keys: &[&str]| ["old", "spare", "new"].map(|key| keys.contains(&key));
                let found = opening(&left);
                assert!(found == is(after) || !done && found == is(before), "point {point} {survivors:?}");
                for slot in SLOTS {
                    let damaged = left.copy();
                    damaged.flip_bit(NAME, (slot as u64 + 50) * 8);
                    assert_eq!(opening(&damaged), found, "point {point} {survivors:?}, header at {slot}");
                }
            }
            if done {
                break;
            }
            point += 1;
        }
        assert!(point >= 4, "{point}");
    }
}

/// Views and read-only stores of every stage; the old key goes when the last of them does.
#[test]
fn views_and_readers_across_a_rekey() {
    let disk = SimDisk::new(12);
    let store = Store::open(disk.env(NAME), options().snapshot_bytes_max(1 << 30)).expect("creates");
    let (mut random, mut model) = (Random::new(12), Model::new());
    fill(&store, &mut random, &mut model, 80);
    let mut kept = vec![(store.read(), model.clone())];
    store.rekey(&RekeyOptions::new(raw(42), COST).cipher(CipherChoice::ChaCha20Poly1305)).expect("begins");
    let mut readers = Vec::new();
    loop {
        fill(&store, &mut random, &mut model, 2);
        kept.push((store.read(), model.clone()));
        let reader = Store::open(disk.env(NAME), options().read_only(true)).expect("opens beside the writer");
        assert_eq!(model_of(&reader), model);
        assert!(matches!(reader.rekey_step(1), Err(MaintainError::ReadOnly)));
        readers.push(reader);
        if store.rekey_step(10).expect("goes on").finished {
            break;
        }
    }
    assert!(kept.len() > 5 && readers[0].stats().rekey.is_some());
    fill(&store, &mut random, &mut model, 60);
    for (view, then) in &kept {
        assert_eq!(content(view), *then);
    }
    store.verify(&mut |_| {}).expect("pages and space agree");
    // A view of old pages lives as long as it likes; without any, the next checkpoints write over what it held.
    kept.clear();
    store.rekey(&RekeyOptions::new(raw(42), COST)).expect("begins");
    store.rekey_all(&mut |_| {}).expect("ends");
    assert!(has_only(&disk, 2));
    assert_eq!(model_of(&store), model);
}

/// spec: C-6, C-10
#[test]
fn a_header_with_two_keys_is_refused_where_it_was_changed() {
    let disk = SimDisk::new(13);
    let store = Store::open(disk.env(NAME), options()).expect("creates");
    put(&store, "t", b"k", b"v").expect("commits");
    store.rekey(&RekeyOptions::new(raw(42), COST)).expect("begins");
    store.rekey_step(1).expect("goes on");
    let bytes = disk.read_file(NAME).expect("is there");
    for byte in (14..16).chain(160..256) {
        for bit in [0, 5] {
            let mut forged = bytes.clone();
            for slot in SLOTS {
                forged[slot + byte] ^= 1 << bit;
                let crc = crc32fast::hash(&forged[slot..slot + 4092]);
                forged[slot + 4092..slot + 4096].copy_from_slice(&crc.to_le_bytes());
            }
            let other = SimDisk::new(14);
            other.write_file(NAME, &forged);
            let opened = Store::open(other.env(NAME), options().create(false));
            let is_refused = matches!(
                opened,
                Err(OpenError::Corruption(Corruption {
                    what: CorruptionKind::HeaderField(_) | CorruptionKind::HeaderAuthentication,
                    ..
                }) | OpenError::Unsupported { .. })
            );
            assert!(is_refused, "byte {byte} bit {bit}: {opened:?}");
        }
    }
    // One damaged slot is made up for by the other, and put right.
    for bit in (0..8 * 4096).step_by(if scale() > 1 { 7 } else { 397 }) {
        let damaged = disk.copy();
        damaged.flip_bit(NAME, SLOTS[bit % 2] as u64 * 8 + bit as u64);
        let store = Store::open(damaged.env(NAME), options()).expect("the other one opens");
        assert_eq!(get(&store, "t", b"k").as_deref(), Some(&b"v"[..]));
        store.rekey_all(&mut |_| {}).expect("ends");
    }
}

/// spec: C-1
#[test]
fn no_plaintext_and_no_key_in_the_files_during_a_rekey() {
    let disk = SimDisk::new(15);
    let store = Store::open(disk.env(NAME), options()).expect("creates");
    let canaries = [&b"canary-tree"[..], b"canary-key-0", b"canary-value", b"canary-words", &[42; 16]];
    for n in 0..40_u8 {
        put(&store, "canary-tree", &[b"canary-key-0", &[n][..]].concat(), &b"canary-value".repeat(20))
            .expect("commits");
    }
    let wanted = RekeyOptions::new(words("canary-words"), COST).and_key(raw(42), COST);
    store.rekey(&wanted).expect("begins");
    loop {
        put(&store, "canary-tree", b"canary-key-0", b"canary-value").expect("commits");
        let now = store.rekey_step(3).expect("goes on");
        for name in disk.names() {
            let bytes = disk.read_file(&name).expect("is there");
            for canary in canaries {
                assert!(!bytes.windows(canary.len()).any(|found| found == canary), "{name}");
            }
        }
        if now.finished {
            break;
        }
    }
}

/// Writers and readers on threads of their own, the store's thread among them.
#[test]
fn a_rekey_under_load() {
    let folder = tempfile::tempdir().expect("a folder");
    let env = Env::file(folder.path().join(NAME));
    let store = Store::open(env.clone(), options()).expect("creates");
    let threads = 3_u8;
    for n in 0..400_u32 {
        put(&store, "t", &n.to_be_bytes(), &[1; 200]).expect("commits");
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let written: Vec<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|thread| {
                let (store, done) = (&store, &done);
                scope.spawn(move || {
                    let mut n = 0_u64;
                    // Once at least, also where the machine has other things to do.
                    while n == 0 || !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let key = [&[thread][..], &(n % 300).to_be_bytes()].concat();
                        put(store, "own", &key, &n.to_be_bytes().repeat(30)).expect("commits");
                        let view = store.read();
                        let tree = view.tree("t").expect("reads").expect("written to");
                        assert_eq!(view.range(tree, ..).filter(Result::is_ok).count(), 400);
                        n += 1;
                    }
                    n
                })
            })
            .collect();
        for round in 0..3 {
            let cipher = [CipherChoice::ChaCha20Poly1305, CipherChoice::Aes256Gcm][round % 2];
            store.rekey(&RekeyOptions::new(raw(42), COST).cipher(cipher)).expect("begins");
            while !store.rekey_step(30).expect("goes on").finished {}
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
    });
    store.verify(&mut |_| {}).expect("pages and space agree");
    store.close().expect("closes");
    drop(store);
    let store = Store::open(env, options()).expect("opens");
    for (thread, n) in written.into_iter().enumerate() {
        let key = [&[thread as u8][..], &((n - 1) % 300).to_be_bytes()].concat();
        assert_eq!(get(&store, "own", &key), Some((n - 1).to_be_bytes().repeat(30)));
    }
}

/// What is sealed ahead of its commit holds the change up until it is committed or given up; nothing of the old key
/// comes into the trees behind its back. spec: C-10
#[test]
fn a_rekey_waits_for_what_is_written_ahead() {
    let disk = SimDisk::new(71);
    let store = Store::open(disk.env(NAME), options()).expect("opens");
    let value: Vec<u8> = Random::new(1).bytes(100_000);
    for n in 0..50_u8 {
        put(&store, "t", &[n], &[n; 300]).expect("commits");
    }
    let mut tx = store.write();
    let t = tx.tree("t").expect("a good name");
    tx.put_stream(t, b"long", value.len() as u64, &mut &value[..]).expect("there is room");
    let mut loader = store.loader();
    let l = loader.tree("l").expect("a good name");
    for n in 0..60_000_u32 {
        loader.put(l, &n.to_be_bytes(), &[n as u8; 100]).expect("there is room");
    }
    store.rekey(&RekeyOptions::new(raw(42), COST)).expect("announces");
    let waits = |store: &Store| (0..20).all(|_| store.rekey_step(1 << 20).expect("steps").done == 0);
    assert!(waits(&store), "a load and a value are under way");
    drop(loader);
    assert!(waits(&store), "a value is under way");
    tx.commit().expect("commits");
    store.rekey_all(&mut |_| {}).expect("ends");
    let view = store.read();
    assert_eq!(view.get(t, b"long").expect("reads").as_deref(), Some(&value[..]));
    drop(view);
    store.verify(&mut |_| {}).expect("pages and space agree");
    store.close().expect("closes");
    assert!(has_only(&disk, 1));
    let store = Store::open(disk.env(NAME), with(raw(42))).expect("opens");
    assert_eq!(get(&store, "t", b"long").as_ref(), Some(&value));
}
